"""Shared parts of the commands for people: times, the `aws` command that makes the same call, and questions with more answers."""

import json
import re
import shlex
import sys

from botocore import xform_name
from cloud import Refusal, say

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def command(account, service, operation, *words, **arguments):
    """The command of the AWS CLI that makes the same call: `command(account, "logs", "filter-log-events", logGroupName=…)`."""
    said = ["aws", service, operation]
    for name, value in {**arguments, "region": account.region}.items():
        said += [f"--{xform_name(name, '-')}", value if isinstance(value, str) else json.dumps(value)]
    return "$ " + shlex.join([*said, *words])


def seconds(text, name, most):
    """Seconds of a duration such as 90s, 15m, 2h or 7d."""
    found = re.fullmatch(r"([1-9]\d{0,6})([smhd])", text)
    if not found or not 0 < int(found[1]) * UNITS[found[2]] <= most * UNITS["d"]:
        raise Refusal(f"{name}= is a span such as 90s, 15m, 2h or 7d, of {most} days at the most, not {text!r}")
    return int(found[1]) * UNITS[found[2]]


def ask(question):
    """The operator's input; empty without a terminal."""
    say(f"    {question}", "yellow")
    return sys.stdin.readline().strip()


def output(account, stack, name):
    """An output of a stack of the environment, which must exist."""
    found = account.stack(account.prefix + stack)
    value = next((one["OutputValue"] for one in (found or {}).get("Outputs", []) if one["OutputKey"] == name), None)
    if value is None:
        deploy = f"make deploy ENV={account.environment} STACK={stack}"
        raise Refusal(f"{account.prefix}{stack} is not deployed, or says nothing of {name} ({deploy})")
    return value
