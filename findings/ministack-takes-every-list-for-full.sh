#!/usr/bin/env bash
# MiniStack 1.5.33: the usual condition for "this list has something in it", Fn::Not of Fn::Equals of Fn::Join of the list
# and '', is true for an empty list too: in conditions Fn::Equals resolves Ref and Fn::Select, and compares every other
# function as it is written. What should not be there is made, without an error. Fn::Equals of Fn::Select and '' is right.
#
# Output seen (the list is empty):
#   Join: made  Select: not made
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

def filled(function):
    return {"Fn::Not": [{"Fn::Equals": [function, ""]}]}

template = {
    "Parameters": {"Countries": {"Type": "CommaDelimitedList", "Default": ""}},
    "Conditions": {
        "Join": filled({"Fn::Join": ["", {"Ref": "Countries"}]}),
        "Select": filled({"Fn::Select": [0, {"Ref": "Countries"}]}),
    },
    "Resources": {name: {"Type": "AWS::SNS::Topic", "Condition": name} for name in ("Join", "Select")}
    | {"Always": {"Type": "AWS::SNS::Topic"}},
}
stacks.create_stack(StackName="list", TemplateBody=json.dumps(template))
while stacks.describe_stacks(StackName="list")["Stacks"][0]["StackStatus"].endswith("_IN_PROGRESS"):
    time.sleep(0.2)
there = {one["LogicalResourceId"] for one in stacks.describe_stack_resources(StackName="list")["StackResources"]}
print("  ".join(f"{name}: {'made' if name in there else 'not made'}" for name in ("Join", "Select")))
sys.exit(0 if there == {"Always", "Join"} else 1)
PYTHON
