#!/usr/bin/env bash
# An action that asks for several resources at once (ec2:RunInstances: instance, image, subnet, …; ssm:SendCommand: document
# and instance) may be allowed by several statements, and must be where a condition is only for one of them: AWS's own
# examples for tags at launch are made so, and IAM allows the request when each of its resources is allowed somewhere.
# Parliament looks at each statement by itself and says RESOURCE_MISMATCH of both, though nothing is missing. Who merges them
# to please it either loses the condition or denies everything: the tags of the instance are asked of the image, too.
#
# Tried 2026-11-30: parliament 1.6.4, by its Python API.
#
# Ends with 0 while it does, with 1 when it reads the statements together.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv tools
tools/bin/pip install --quiet --disable-pip-version-check parliament==1.6.4 'setuptools<81'
tools/bin/python -W ignore - << 'PYTHON'
import json
import sys

import parliament


def says(*statements):
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **one} for one in statements]}
    found = parliament.analyze_policy_string(json.dumps(policy)).findings
    return sorted({finding.issue for finding in found})


document = "arn:aws:ssm:eu-central-1:111122223333:document/ours"
instance = "arn:aws:ec2:eu-central-1:111122223333:instance/*"
tagged = {"StringEquals": {"ssm:resourceTag/Environment": "dev"}}
together = says({"Action": "ssm:SendCommand", "Resource": [document, instance]})
apart = says(
    {"Action": "ssm:SendCommand", "Resource": document},
    {"Action": "ssm:SendCommand", "Resource": instance, "Condition": tagged},
)
print(f"in one statement: {together}; in two, one with a condition: {apart}")
sys.exit(not (together == [] and apart == ["RESOURCE_MISMATCH"]))
PYTHON
