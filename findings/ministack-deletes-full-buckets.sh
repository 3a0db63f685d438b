#!/usr/bin/env bash
# MiniStack 1.5.33: deleting a stack deletes a bucket that has objects in it, with them, where S3's own DeleteBucket refuses it
# (BucketNotEmpty), there and on AWS. A test of a deletion that must stop at a full bucket passes for another reason.
#
# Output seen:
#   S3: BucketNotEmpty  CloudFormation: DELETE_COMPLETE
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
import os
import sys
import time

import boto3
import botocore.exceptions

endpoint = {"region_name": "eu-central-1", "endpoint_url": f"http://127.0.0.1:{os.environ['PORT']}"}
stacks, s3 = boto3.client("cloudformation", **endpoint), boto3.client("s3", **endpoint)


def wait(stack):
    while (status := stacks.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]).endswith("_IN_PROGRESS"):
        time.sleep(0.2)
    return status


for _ in range(120):
    try:
        stacks.list_stacks()
        break
    except Exception:
        time.sleep(0.5)
template = "Resources: { Bucket: { Type: AWS::S3::Bucket, Properties: { BucketName: full } } }"
stack = stacks.create_stack(StackName="full", TemplateBody=template)["StackId"]
wait(stack)
s3.put_object(Bucket="full", Key="a", Body=b"a")
try:
    s3.delete_bucket(Bucket="full")
    alone = "deleted"
except botocore.exceptions.ClientError as error:
    alone = error.response["Error"]["Code"]
stacks.delete_stack(StackName=stack)
by_stack = wait(stack)
print(f"S3: {alone}  CloudFormation: {by_stack}")
sys.exit(0 if (alone, by_stack) == ("BucketNotEmpty", "DELETE_COMPLETE") else 1)
PYTHON
