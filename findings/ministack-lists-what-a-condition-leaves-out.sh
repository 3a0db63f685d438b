#!/usr/bin/env bash
# MiniStack 1.5.33: a change set of a new stack lists every resource of the template as `Add`, those too whose condition is
# false and which are not made when it is executed. So what a first `make deploy` shows on the emulator is more than what it makes.
#
# Output seen (the condition is false):
#   shown: Always Never  made: Always
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
    "Conditions": {"No": {"Fn::Equals": ["a", "b"]}},
    "Resources": {"Always": topic, "Never": {**topic, "Condition": "No"}},
}
made = stacks.create_change_set(StackName="s", ChangeSetName="c", ChangeSetType="CREATE", TemplateBody=json.dumps(template))
while stacks.describe_change_set(ChangeSetName=made["Id"])["Status"].endswith(("_IN_PROGRESS", "_PENDING")):
    time.sleep(0.2)
shown = sorted(one["ResourceChange"]["LogicalResourceId"] for one in stacks.describe_change_set(ChangeSetName=made["Id"])["Changes"])
stacks.execute_change_set(ChangeSetName=made["Id"])
while stacks.describe_stacks(StackName="s")["Stacks"][0]["StackStatus"] != "CREATE_COMPLETE":
    time.sleep(0.2)
there = sorted(one["LogicalResourceId"] for one in stacks.describe_stack_resources(StackName="s")["StackResources"])
print("shown:", *shown, " made:", *there)
sys.exit(0 if (shown, there) == (["Always", "Never"], ["Always"]) else 1)
PYTHON
