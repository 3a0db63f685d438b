"""Shared parts of the commands of the stacks: the account that they work on, questions, and waiting for a stack."""

import argparse
import functools
import itertools
import json
import os
import pathlib
import shlex
import sys
import time
import uuid

import boto3
import stopping
import templates
from botocore import config, exceptions, parsers, xform_name
from templates import Refusal

FAILURES = (exceptions.ClientError, exceptions.BotoCoreError, parsers.ResponseParserError)  # the last: the answer is not AWS's


def say(text, colour=None):
    # Characters that a terminal acts on are escaped as in JSON: logs, consoles and answers contain strangers' input.
    text = "".join(char if char.isprintable() or char in "\n\t" else json.dumps(char)[1:-1] for char in text)
    if colour and (os.environ.get("FORCE_COLOR") or (sys.stdout.isatty() and not os.environ.get("NO_COLOR"))):
        text = f"\033[{dict(red=31, green=32, yellow=33)[colour]}m{text}\033[0m"
    print(text, flush=True)


def agree(question, expected="y"):
    """Refuses to continue unless the operator answers with `expected`. Without a terminal the answer is no."""
    say(f"    {question} [{expected}/N]", "yellow")
    if sys.stdin.readline().strip().lower() != expected:
        raise Refusal("not agreed; nothing more is changed (YES=1 asks nothing)")


def in_progress(stack):
    """Whether an operation is running. REVIEW_IN_PROGRESS is at rest: a stack that has only a change set."""
    return stack["StackStatus"].endswith("_IN_PROGRESS") and stack["StackStatus"] != "REVIEW_IN_PROGRESS"


def outputs(stack):
    return {one["OutputKey"]: one["OutputValue"] for one in (stack or {}).get("Outputs", [])}


def pauses():
    """Waits between two polls: shortly at first, for operations that end at once."""
    for attempt in itertools.count(1):
        time.sleep(min(0.1 * attempt, 3))
        yield


class Account:
    """One account and region, as the caller's credentials reach it, and the stacks of one environment in it."""

    def __init__(self, environment):
        if environment not in ("dev", "stage", "prod", "tools"):
            raise Refusal(f"ENV= must be dev, stage or prod (tools: the account of the pipelines), not {environment!r}")
        self.client = functools.cache(self.make_client)
        try:
            self.session = boto3.Session(region_name=os.environ.get("AWS_REGION"))  # the AWS CLI reads it, boto3 does not
            if not self.session.region_name:
                raise Refusal("no region is set: AWS_REGION=eu-central-1, or AWS_PROFILE= with one that has a region")
            identity = self.client("sts", 1).get_caller_identity()
        except (*FAILURES, ValueError) as error:
            hint = "is there a network, is AWS_PROFILE= right, are you logged in (aws sso login)?"
            raise Refusal(f"{error}\n    AWS does not say who you are: {hint}") from None
        self.environment, self.region, self.endpoint = environment, self.session.region_name, os.environ.get("AWS_ENDPOINT_URL")
        self.cloudformation = self.client("cloudformation")
        # For an orderly end (stopping.py): the change set that is not executed, a job, the stack, and what else is to be said of it.
        self.change_set, self.job, self.subject, self.more = None, "", None, lambda stack, runs: ()
        self.number, self.caller, self.prefix = identity["Account"], identity["Arn"], f"salebell-{environment}-"

    def make_client(self, service, retries=10):
        tries = {"mode": "standard", "max_attempts": retries}
        return self.session.client(service, config=config.Config(connect_timeout=5, read_timeout=20, retries=tries))

    def pages(self, service, operation, part, **arguments):
        """The entries of all pages of an answer."""
        return (one for page in self.client(service).get_paginator(operation).paginate(**arguments) for one in page.get(part, []))

    def command(self, operation, **arguments):
        """The command of the AWS CLI that makes the same call of CloudFormation."""
        words = ["aws", "cloudformation", operation]
        for name, value in {**arguments, "Region": self.region}.items():
            words += [f"--{xform_name(name, '-')}", value if isinstance(value, str) else json.dumps(value)][: 2 - (value is True)]
        return "$ " + shlex.join(words)

    def introduce(self, what):
        where = f"    environment {self.environment}, account {self.number}, {self.region}, as {self.caller}"
        say(f"==> {what}\n{where}" + f"\n    at {self.endpoint}, which is not AWS" * bool(self.endpoint))

    def names(self):
        """The stacks of this environment, in order. Only those of the pipelines are in the tools account."""
        return [name for name in map(templates.name, templates.paths()) if (name in templates.TOOLS) == (self.environment == "tools")]

    def stack(self, name):
        """The stack of this full name or id as CloudFormation describes it; None when there is none."""
        try:
            return self.cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        except exceptions.ClientError as error:
            if "does not exist" not in str(error):
                raise

    def events(self, stack_id, token):
        """The events of the operation with this token, or of the last one; the oldest first."""
        every = self.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=stack_id)
        operations = itertools.groupby(every, lambda event: event.get("ClientRequestToken", ""))
        return next((list(events)[::-1] for found, events in operations if token in (None, found)), [])

    def follow(self, stack_id, token=None, also=lambda _: None):
        """Shows events until the stack is at rest, and returns it with the first failure. Without a token: of the running operation."""
        shown, self.subject, self.change_set = set(), stack_id, None
        for _ in map(also, pauses()):
            stack, events = self.stack(stack_id), self.events(stack_id, token)
            for event in events:
                failed = event["ResourceStatus"].endswith("_FAILED")
                line = f"{event['Timestamp']:%H:%M:%S} {event['ResourceStatus']:<24} {event['LogicalResourceId']} "
                line += event["ResourceType"] + (f": {event.get('ResourceStatusReason')}" if failed else "")
                if event["EventId"] not in shown:
                    say(f"    {line}", "red" if failed else None)
                shown.add(event["EventId"])
            # Nothing of the operation is there yet right after the call that has started it. A stack that was nothing yet has none.
            if (events or stack["StackStatus"] == "DELETE_COMPLETE") and not in_progress(stack):
                return stack, self.first_failure(events)

    def first_failure(self, events):
        found = self.validation(StackName=events[0]["StackId"], since=events[0]["Timestamp"]) if events else ""
        for event in events:
            reason = event.get("ResourceStatusReason", "no reason is given")
            if event["ResourceStatus"].endswith("_FAILED") and " cancelled" not in reason:
                return f"{found}\n    {event['LogicalResourceId']} ({event['ResourceType']}): {reason}"
        return found or "\n    no event says why"

    def validation(self, since=None, **of):
        """Findings of the checks before a deployment, a line each."""
        events = self.cloudformation.describe_events(Filters={"FailedEvents": True}, **of)["OperationEvents"]
        found = (one for one in events if one.get("ValidationStatusReason") and (since is None or one["Timestamp"] >= since))
        line = "\n    {LogicalResourceId}: {ValidationStatusReason} {ValidationPath}".format_map
        return "".join(line({"LogicalResourceId": None, "ValidationPath": "", **one}) for one in found)

    def delete(self, stack):
        """Deletes a stack with its events shown, and returns it with the first failure."""
        say(self.command("delete-stack", StackName=stack["StackName"]))
        self.cloudformation.delete_stack(StackName=stack["StackId"], ClientRequestToken=(token := uuid.uuid4().hex))
        return self.follow(stack["StackId"], token)


def run(main, what, **flags):
    """Runs `main(account, options)`. What it or AWS refuses is a line and exit code 1. A flag is its help, or argparse's."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--environment", required=True)
    parser.add_argument("--folder", type=pathlib.Path, default=templates.FOLDER, help="folder of the templates")
    for name, how in flags.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **({"action": "store_true", "help": how} if isinstance(how, str) else how))
    options = parser.parse_args()
    templates.FOLDER = options.folder.resolve()
    again = stopping.command(pathlib.Path(parser.prog).stem, options, flags)
    sys.exit(stopping.run(lambda: Account(options.environment), lambda account: main(account, options), again, say, (Refusal, *FAILURES)))
