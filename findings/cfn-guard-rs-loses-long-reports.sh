#!/usr/bin/env bash
# cfn-guard-rs (CloudFormation Guard as a wheel) gives only the end of a report of more than 8 KiB, and none at all of a rule
# with `or`: the first raises JSONDecodeError, the second UnknownError("'list' object has no attribute 'get'"). So a template
# that breaks a rule once is told to break it; one that breaks it often, or a rule with `or`, looks like a broken tool. A
# program that takes such an error for "no verdict" lets the worst templates through. Reports of success are short.
# Seen with cfn-guard-rs 0.3.3 (CPython 3.11, x86_64), on valid templates with n queues and one rule. Output:
#   1 queue: FAIL, 1498 bytes
#   10 queues: JSONDecodeError, 3737 bytes that begin in the middle
#   1 queue, rule with or: UnknownError
# What works: call the wheel's own `cfn_guard_rs.cfn_guard_rs.run_checks_rs`, and count what is not JSON as failed.
# Needs python3 with venv, and the registry of Python packages.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check cfn-guard-rs==0.3.3
"$folder/bin/python" - <<'PYTHON'
import json
import cfn_guard_rs
from cfn_guard_rs.cfn_guard_rs import run_checks_rs

QUEUES = "Resources.*[ Type == 'AWS::SQS::Queue' ].Properties"
ONE = f"rule redriven {{ {QUEUES}.RedrivePolicy exists }}"
OR = f"rule redriven {{ {QUEUES} {{ RedrivePolicy exists or QueueName exists }} }}"


def verdict(queues, rule):
    template = {"Resources": {f"Q{i}": {"Type": "AWS::SQS::Queue", "Properties": {"DelaySeconds": i}} for i in range(queues)}}
    raw = run_checks_rs(json.dumps(template), rule, False)
    try:
        return cfn_guard_rs.run_checks(template, rule).status, raw
    except Exception as error:
        return type(error).__name__, raw


short, raw = verdict(1, ONE)
print(f"1 queue: {short}, {len(raw)} bytes")
assert short == "FAIL" and json.loads(raw)["status"] == "FAIL"
long, raw = verdict(10, ONE)
print(f"10 queues: {long}, {len(raw)} bytes that begin in the middle")
assert long == "JSONDecodeError" and not raw.startswith("{") and raw.endswith("}")
other, raw = verdict(1, OR)
print(f"1 queue, rule with or: {other}")
assert other == "UnknownError" and json.loads(raw)["status"] == "FAIL"
PYTHON
