"""What the commands of the stacks share: the account that they work on, questions, and waiting for a stack."""

import argparse
import json
import os
import pathlib
import shlex
import sys
import time
import uuid

import boto3
import botocore.config
import botocore.exceptions
import templates
from botocore import xform_name

COLOURS = {"red": 31, "green": 32, "yellow": 33}
# When a resource has failed the others are cancelled, and their events say nothing.
CANCELLED = ("Resource creation cancelled", "Resource update cancelled")


class Refusal(Exception):
    """Why a command does not go on, and what to do about it."""


def paint(text, colour):
    """The text in a colour, where a terminal shows it."""
    wanted = os.environ.get("FORCE_COLOR") or (sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    return f"\033[{COLOURS[colour]}m{text}\033[0m" if wanted else text


def say(text, colour=None):
    print(paint(text, colour) if colour else text, flush=True)


def agree(question, expected="y"):
    """Refuses to go on unless the operator answers with `expected`. Nobody there to answer is a no."""
    try:
        answer = input(f"    {question} [{expected}/N] ").strip().lower()
    except EOFError:
        answer = ""
    if answer != expected:
        raise Refusal("not agreed; nothing has changed (YES=1 asks nothing)")


def command(operation, **arguments):
    """The command of the AWS CLI that makes the same call of CloudFormation."""
    words = ["aws", "cloudformation", operation]
    for name, value in arguments.items():
        values = [] if value is True else [value if isinstance(value, str) else json.dumps(value)]
        words += [f"--{xform_name(name, '-')}", *values]
    return "$ " + " ".join(map(shlex.quote, words))


def in_progress(stack):
    """REVIEW_IN_PROGRESS is at rest: a stack that has nothing but a change set."""
    return stack["StackStatus"].endswith("_IN_PROGRESS") and stack["StackStatus"] != "REVIEW_IN_PROGRESS"


def outputs(stack):
    return {one["OutputKey"]: one["OutputValue"] for one in (stack or {}).get("Outputs", [])}


def pauses(longest=3.0):
    """Waits between two looks: shortly at first, for what is done at once."""
    pause = 0.1
    while True:
        time.sleep(pause)
        yield
        pause = min(pause * 1.5, longest)


class Account:
    """One account and region, as the caller's credentials reach it, and the stacks of one environment in it."""

    def __init__(self, environment):
        if environment not in ("dev", "stage", "prod", "tools"):
            raise Refusal(f"ENV= must be dev, stage or prod (tools: the account of the pipelines), not {environment!r}")
        # AWS's command and other SDKs read AWS_REGION, boto3 does not.
        self.session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        self.environment, self.region, self.clients = environment, self.session.region_name, {}
        if not self.region:
            raise Refusal("no region is set: AWS_REGION=eu-central-1, or AWS_PROFILE= with one that has a region")
        identity = self.client("sts").get_caller_identity()
        self.number, self.caller = identity["Account"], identity["Arn"]
        self.cloudformation = self.client("cloudformation")

    def client(self, service):
        if service not in self.clients:
            config = botocore.config.Config(retries={"mode": "standard", "max_attempts": 10})
            self.clients[service] = self.session.client(service, config=config)
        return self.clients[service]

    def pages(self, service, operation, part, **arguments):
        """The entries of all pages of an answer."""
        for page in self.client(service).get_paginator(operation).paginate(**arguments):
            yield from page.get(part, [])

    def introduce(self, what):
        say(f"==> {what}\n    environment {self.environment}, account {self.number}, {self.region}, as {self.caller}")
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            say(f"    at {endpoint}, which is not AWS", "yellow")

    def full_name(self, name):
        return f"salebell-{self.environment}-{name}"

    def names(self):
        """The stacks of this environment, in order. Pipelines are in the tools account, and all others are not."""
        every = map(templates.name, templates.paths())
        return [name for name in every if (name == "pipelines") == (self.environment == "tools")]

    def stack(self, name):
        """The stack of this full name or id as CloudFormation describes it; None when there is none."""
        try:
            return self.cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        except botocore.exceptions.ClientError as error:
            if "does not exist" not in str(error):
                raise

    def events(self, stack_id, token):
        """The events of the operation with this token, or of the last one; the oldest first."""
        found = []
        for event in self.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=stack_id):
            token = event.get("ClientRequestToken", "") if token is None else token
            if event.get("ClientRequestToken", "") == token:
                found.append(event)
            elif found:
                break
        return found[::-1]

    def follow(self, stack_id, token=None):
        """Shows events as they come until the stack is at rest, and gives it with what has failed first. Without a token it
        follows what runs already."""
        shown = set()
        for _ in pauses():
            stack, events = self.stack(stack_id), self.events(stack_id, token)
            for event in events:
                failed = event["ResourceStatus"].endswith("_FAILED")
                line = f"    {event['Timestamp']:%H:%M:%S} {event['ResourceStatus']:<24} {event['LogicalResourceId']} "
                line += event["ResourceType"] + (f": {event.get('ResourceStatusReason')}" if failed else "")
                if event["EventId"] not in shown:
                    say(line, "red" if failed else None)
                shown.add(event["EventId"])
            # Nothing of the operation is there yet right after the call that has started it.
            if events and not in_progress(stack):
                return stack, self.first_failure(events)

    def first_failure(self, events):
        found = self.validation(StackName=events[0]["StackId"], since=events[0]["Timestamp"])
        for event in events:
            reason = event.get("ResourceStatusReason", "no reason is given")
            if event["ResourceStatus"].endswith("_FAILED") and not reason.startswith(CANCELLED):
                return f"{found}\n    {event['LogicalResourceId']} ({event['ResourceType']}): {reason}"
        return found or "\n    no event says why"

    def validation(self, since=None, **of):
        """What the checks before a deployment have found, a line each."""
        events = self.cloudformation.describe_events(Filters={"FailedEvents": True}, **of)["OperationEvents"]
        return "".join(
            f"\n    {event.get('LogicalResourceId')}: {event['ValidationStatusReason']} {event.get('ValidationPath', '')}"
            for event in events
            if event.get("ValidationStatusReason") and (since is None or event["Timestamp"] >= since)
        )

    def delete(self, stack):
        """Deletes a stack with its events shown, and gives it with what has failed first."""
        say(command("delete-stack", StackName=stack["StackName"]))
        token = uuid.uuid4().hex
        self.cloudformation.delete_stack(StackName=stack["StackId"], ClientRequestToken=token)
        return self.follow(stack["StackId"], token)


def run(main, what, *flags):
    """Runs `main(account, options)`. What it refuses, and what AWS refuses, is a line and exit code 1."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--environment", required=True)
    parser.add_argument("--folder", type=pathlib.Path, default=templates.FOLDER, help="where the templates are")
    for names, settings in flags:
        parser.add_argument(names, **settings)
    options = parser.parse_args()
    templates.FOLDER = options.folder.resolve()
    try:
        sys.exit(main(Account(options.environment), options) or 0)
    except KeyboardInterrupt:
        say("\nstopped. What CloudFormation has begun goes on; the same command waits for it, and goes on from there")
        sys.exit(130)
    except (Refusal, botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        say(f"error: {error}", "red")
        sys.exit(1)
