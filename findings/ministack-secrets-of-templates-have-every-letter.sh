#!/usr/bin/env bash
# MiniStack 1.5.33: a secret that a template has generated (AWS::SecretsManager::Secret, GenerateSecretString) has letters that
# ExcludeUppercase and ExcludePunctuation leave out; only ExcludeCharacters is obeyed. GetRandomPassword of its API obeys all
# three, so a secret that is to have a form (hex digits, a part of a URL) has it by the API and not by a template.
#
# Output seen:
#   API: 0-9a-f  template: others too  template, all in ExcludeCharacters: 0-9a-f
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
import string
import sys
import time

import boto3

def client(name):
    return boto3.client(name, "eu-central-1", endpoint_url=f"http://127.0.0.1:{os.environ['PORT']}")

secrets, stacks = client("secretsmanager"), client("cloudformation")
for _ in range(120):
    try:
        secrets.list_secrets()
        break
    except Exception:
        time.sleep(0.5)

# Enough that a letter too many is in it.
flags = {"PasswordLength": 512, "ExcludeUppercase": True, "ExcludePunctuation": True, "RequireEachIncludedType": False}
lower = {**flags, "ExcludeCharacters": "ghijklmnopqrstuvwxyz"}
whole = {**flags, "ExcludeCharacters": "ghijklmnopqrstuvwxyz" + string.ascii_uppercase + string.punctuation}

def letters(text):
    return "0-9a-f" if set(text) <= set("0123456789abcdef") else "others too"

def stack(name, generate):
    secret = {"Type": "AWS::SecretsManager::Secret", "Properties": {"Name": name, "GenerateSecretString": generate}}
    stacks.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": {"Secret": secret}}))
    while stacks.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"] != "CREATE_COMPLETE":
        time.sleep(0.2)
    return letters(secrets.get_secret_value(SecretId=name)["SecretString"])

api = letters(secrets.get_random_password(**{**lower, "PasswordLength": 512})["RandomPassword"])
template, characters = stack("flags", lower), stack("characters", whole)
print(f"API: {api}  template: {template}  template, all in ExcludeCharacters: {characters}")
sys.exit(0 if (api, template, characters) == ("0-9a-f", "others too", "0-9a-f") else 1)
PYTHON
