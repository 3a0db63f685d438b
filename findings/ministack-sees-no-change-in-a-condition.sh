#!/usr/bin/env bash
# MiniStack 1.5.33: an update whose only effect is that a condition becomes true, by another value of a parameter, "didn't
# contain changes": the change set fails, and the resource is not made.
#
# Output seen:
#   FAILED: The submitted information didn't contain changes. Submit different information to create a change set.
#
# Ends with 0 when that is so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv tools
tools/bin/pip install --quiet --disable-pip-version-check ministack==1.5.33 boto3==1.43.106
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# Without IOT_MTLS_ENABLED=0 it listens on port 8883 of all addresses as well.
BIND_HOST=127.0.0.1 GATEWAY_PORT=$port IOT_MTLS_ENABLED=0 tools/bin/ministack >log 2>&1 &
server=$!
AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test PORT=$port tools/bin/python - <<'PYTHON'
import json
import os
import sys
import time

import boto3

stacks = boto3.client("cloudformation", "eu-central-1", endpoint_url=f"http://127.0.0.1:{os.environ['PORT']}")
for _ in range(120):
    try:
        stacks.list_stacks()
        break
    except Exception:
        time.sleep(0.5)

topic = {"Type": "AWS::SNS::Topic"}
template = {
    "Parameters": {"More": {"Type": "String", "Default": "off"}},
    "Conditions": {"IsMore": {"Fn::Equals": [{"Ref": "More"}, "on"]}},
    "Resources": {"Always": topic, "Sometimes": {**topic, "Condition": "IsMore"}},
}
stacks.create_stack(StackName="s", TemplateBody=json.dumps(template))
while stacks.describe_stacks(StackName="s")["Stacks"][0]["StackStatus"] != "CREATE_COMPLETE":
    time.sleep(0.2)
more = [{"ParameterKey": "More", "ParameterValue": "on"}]
made = stacks.create_change_set(StackName="s", ChangeSetName="c", Parameters=more, TemplateBody=json.dumps(template))
while (seen := stacks.describe_change_set(ChangeSetName=made["Id"]))["Status"].endswith(("_IN_PROGRESS", "_PENDING")):
    time.sleep(0.2)
print(f"{seen['Status']}: {seen.get('StatusReason')}")
sys.exit(0 if seen["Status"] == "FAILED" and "contain changes" in seen["StatusReason"] else 1)
PYTHON
