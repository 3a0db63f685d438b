#!/usr/bin/env bash
# MiniStack 1.5.33: change sets do not look at conditions. That of a new stack lists resources whose condition is false, which
# are not made when it is executed; and an update in which another parameter makes a condition true, and nothing else changes,
# "didn't contain changes": it fails, and the resource is never made.
#
# Output seen:
#   shown: Always Sometimes  made: Always
#   then: FAILED, The submitted information didn't contain changes. Submit different information to create a change set.
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


def change_set(kind, more):
    value = [{"ParameterKey": "More", "ParameterValue": more}]
    made = stacks.create_change_set(
        StackName="s", ChangeSetName=kind.lower(), ChangeSetType=kind, Parameters=value, TemplateBody=json.dumps(template)
    )
    while (seen := stacks.describe_change_set(ChangeSetName=made["Id"]))["Status"].endswith(("_IN_PROGRESS", "_PENDING")):
        time.sleep(0.2)
    return seen


new = change_set("CREATE", "off")
shown = sorted(one["ResourceChange"]["LogicalResourceId"] for one in new["Changes"])
stacks.execute_change_set(ChangeSetName=new["ChangeSetId"])
while stacks.describe_stacks(StackName="s")["Stacks"][0]["StackStatus"] != "CREATE_COMPLETE":
    time.sleep(0.2)
there = sorted(one["LogicalResourceId"] for one in stacks.describe_stack_resources(StackName="s")["StackResources"])
then = change_set("UPDATE", "on")
print("shown:", *shown, " made:", *there)
print(f"then: {then['Status']}, {then.get('StatusReason')}")
sees_nothing = then["Status"] == "FAILED" and "contain changes" in then["StatusReason"]
sys.exit(0 if (shown, there) == (["Always", "Sometimes"], ["Always"]) and sees_nothing else 1)
PYTHON
