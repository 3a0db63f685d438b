#!/usr/bin/env bash
# The schema of AWS::AutoScaling::AutoScalingGroup (in cfn-lint 1.58.0): LaunchTemplate is among the properties whose change *may*
# replace the group, although another version of the same template never does. A change set for a new image therefore says
# "Replacement: Conditional" of the group, and so of what names it in a property that is create-only, such as the
# AutoScalingGroupName of its scaling policies. A deploy that refuses everything but "False" could never roll an image.
#
# Output seen:
#   AutoScalingGroup: LaunchTemplate may replace it  ScalingPolicy: AutoScalingGroupName replaces it
#
# Ends with 0 when that is so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv tools
tools/bin/pip install --quiet --disable-pip-version-check cfn-lint==1.58.0
tools/bin/python - <<'PYTHON'
import json
import pathlib
import sys

import cfnlint

schemas = pathlib.Path(cfnlint.__file__).parent / "data" / "schemas"
names = json.loads((schemas / "providers" / "eu-central-1.json").read_text())


def schema(kind):
    return json.loads((schemas / "resources" / f"{names[kind]}.json").read_text())


group, policy = schema("AWS::AutoScaling::AutoScalingGroup"), schema("AWS::AutoScaling::ScalingPolicy")
maybe = "/properties/LaunchTemplate" in group.get("conditionalCreateOnlyProperties", [])
always = "/properties/AutoScalingGroupName" in policy.get("createOnlyProperties", [])
said = f"AutoScalingGroup: LaunchTemplate {'may replace it' if maybe else 'is changed in place'}  "
print(said + f"ScalingPolicy: AutoScalingGroupName {'replaces it' if always else 'is changed in place'}")
sys.exit(0 if maybe and always else 1)
PYTHON
