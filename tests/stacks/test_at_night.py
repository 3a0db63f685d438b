"""The short forms of the runbooks, run by the `aws` command against an emulated AWS."""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from emulator import ROOT, emulator  # noqa: F401

TEMPLATE = """
Resources: { Queue: { Type: AWS::SQS::Queue } }
Outputs: { PricesQueueName: { Value: !GetAtt Queue.QueueName } }
"""


@pytest.fixture(scope="module")
def night(emulator):  # noqa: F811
    """Runs commands as somebody would who has read scripts/stacks/at-night.sh in."""
    emulator.client("cloudformation").create_stack(StackName="salebell-prod-bus", TemplateBody=TEMPLATE)

    def run(command, **more):
        # The command of PyPI does not heed AWS_ENDPOINT_URL for SQS (findings/): it is told each time.
        aws = 'aws() { command aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }'
        path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euc", f"{aws}; . scripts/stacks/at-night.sh prod; {command}"],
            env={**emulator.environment, "PATH": path, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.client = emulator.client
    return run


def test_a_queue_is_found_by_the_output_of_its_stack(night):
    for _ in range(100):
        stack = night.client("cloudformation").describe_stacks(StackName="salebell-prod-bus")["Stacks"][0]
        if stack["StackStatus"] == "CREATE_COMPLETE":
            break
        time.sleep(0.1)
    assert night("queue PricesQueueName") == "0 wait, 0 are worked on\n"


def test_the_region_of_make_is_that_of_aws_too(night):
    """Version 1 of the command does not read AWS_REGION, which the index of the runbooks sets."""
    assert night('echo "$AWS_DEFAULT_REGION"', AWS_DEFAULT_REGION="us-east-1") == "eu-central-1\n"
    assert night('echo "$AWS_DEFAULT_REGION"', AWS_REGION="", AWS_DEFAULT_REGION="us-east-1") == "us-east-1\n"


def test_figures_come_by_the_minute_with_their_dimensions(night):
    now = datetime.datetime.now(datetime.UTC)
    dimensions = [{"Name": "service", "Value": "api"}, {"Name": "environment", "Value": "prod"}]
    values = [{"MetricName": "m", "Dimensions": dimensions, "Timestamp": now - datetime.timedelta(minutes=at), "Value": at} for at in (1, 2, 3)]
    night.client("cloudwatch").put_metric_data(Namespace="Salebell", MetricData=values)
    for statistic in ("Maximum", "p99"):
        lines = night(f'figures Salebell m {statistic} service=api environment="$ENV"').splitlines()
        assert [line.split("\t")[1] for line in lines] == ["3.0", "2.0", "1.0"]


def test_alarms_come_with_their_page(night):
    watched = {"Namespace": "x", "MetricName": "y", "Statistic": "Sum", "Period": 60, "EvaluationPeriods": 1, "Threshold": 1}
    says = "It is on fire. Runbook: docs/guides/runbooks/db-cpu.md"
    cloudwatch = night.client("cloudwatch")
    cloudwatch.put_metric_alarm(AlarmName="a", AlarmDescription=says, ComparisonOperator="GreaterThanThreshold", **watched)
    cloudwatch.set_alarm_state(AlarmName="a", StateValue="ALARM", StateReason="a test")
    assert night("alarms").rstrip("\n").split("\t")[1:] == ["a", says]


def test_a_log_is_asked_and_answers(night):
    logs, line = night.client("logs"), json.dumps({"level": "error", "message": "boom"})
    logs.create_log_group(logGroupName="/salebell/application")
    logs.create_log_stream(logGroupName="/salebell/application", logStreamName="i-1")
    event = {"timestamp": int(time.time() - 60) * 1000, "message": line}
    logs.put_log_events(logGroupName="/salebell/application", logStreamName="i-1", logEvents=[event])
    assert night('ask application "fields @message | limit 5" 5') == f"{line}\n"


def test_a_line_of_a_log_does_nothing_to_the_terminal(night):
    logs = night.client("logs")
    logs.create_log_group(logGroupName="/salebell/access")
    logs.create_log_stream(logGroupName="/salebell/access", logStreamName="i-1")
    event = {"timestamp": int(time.time() - 60) * 1000, "message": "a\x1b[2J \x9b2J\u202eb\u2066 \u00e9 \u8a9e \u2192"}
    logs.put_log_events(logGroupName="/salebell/access", logStreamName="i-1", logEvents=[event])
    assert night('ask access "fields @message | limit 5" 5') == "a?[2J ?2J?b? \u00e9 \u8a9e \u2192\n"
