#!/usr/bin/env bash
# MiniStack 1.5.33: AWS::CloudWatch::Alarm is among the types that its CloudFormation makes, but one with `Metrics` (metric
# math: an error rate, or a sum) fails, and with it the whole stack. PutMetricAlarm of its CloudWatch takes the same alarm,
# so a look at what the API can do tells nothing about templates.
#
# Output seen:
#   API: made  template, one metric: CREATE_COMPLETE  template, metric math: ROLLBACK_COMPLETE
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

def client(name):
    return boto3.client(name, "eu-central-1", endpoint_url=f"http://127.0.0.1:{os.environ['PORT']}")

alarms, stacks = client("cloudwatch"), client("cloudformation")
for _ in range(120):
    try:
        alarms.describe_alarms()
        break
    except Exception:
        time.sleep(0.5)

def stat(name):
    metric = {"Namespace": "AWS/ApplicationELB", "MetricName": name}
    return {"Id": name.lower(), "ReturnData": False, "MetricStat": {"Stat": "Sum", "Period": 60, "Metric": metric}}

common = {"ComparisonOperator": "GreaterThanThreshold", "Threshold": 1, "EvaluationPeriods": 1}
one = {**common, "Namespace": "AWS/ApplicationELB", "MetricName": "Requests", "Statistic": "Sum", "Period": 60}
math = {**common, "Metrics": [{"Id": "rate", "Expression": "errors / requests"}, stat("Errors"), stat("Requests")]}
alarms.put_metric_alarm(AlarmName="api", **math)
api = "made" if alarms.describe_alarms(AlarmNames=["api"])["MetricAlarms"] else "lost"

def stack(name, properties):
    template = {"Resources": {"Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}}}
    stacks.create_stack(StackName=name, TemplateBody=json.dumps(template))
    while True:
        state = stacks.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
        if not state.endswith("_IN_PROGRESS"):
            return state
        time.sleep(0.2)

plain, computed = stack("plain", one), stack("computed", math)
print(f"API: {api}  template, one metric: {plain}  template, metric math: {computed}")
sys.exit(0 if (api, plain, computed) == ("made", "CREATE_COMPLETE", "ROLLBACK_COMPLETE") else 1)
PYTHON
