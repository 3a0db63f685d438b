"""Writes down what the operator's commands call on AWS, where SALEBELL_TEST_CALLS names a file: `deploy ec2:DescribeImages`,
each once a process (tests/stacks/recorded.py), under the role that the command is for. Python imports a module of this name by
itself; the emulator of the tests has this folder on the commands' path."""

import os
import pathlib
import sys

# By the name of a command: the table of cloudformation/calls for the role that runs it. All others are run by deploy's.
# `None` is what a person types: who may do that is said on the page that has it.
TABLES = {"aws": None, "logs": "on-call", "mute": "on-call", "shell": "on-call", "rollout": "rollout", "rollback": "rollout"}
FILE = os.environ.get("SALEBELL_TEST_CALLS")
seen = set()


def note(client, operation):
    """Writes a call down, if it is a command's and not the tests' own. Those say so, and so does `make shell` where it has
    assumed a role."""
    service = {"monitoring": "cloudwatch"}.get(client.meta.service_model.signing_name, client.meta.service_model.signing_name)
    program = pathlib.Path(sys.argv[0]).stem
    who = client.meta.config.user_agent_appid or TABLES.get(program, "deploy")
    if (program, operation) == ("shell", "AssumeRole"):
        # It is the person who escalates.
        who = None
    if FILE and who not in (None, "tests") and (who, service, operation) not in seen:
        seen.add((who, service, operation))
        with open(FILE, "a") as lines:
            lines.write(f"{who} {service}:{operation}\n")


def record():
    import botocore.client

    call = botocore.client.BaseClient._make_api_call

    def call_and_record(self, operation, parameters):
        note(self, operation)
        return call(self, operation, parameters)

    botocore.client.BaseClient._make_api_call = call_and_record


if FILE:
    record()
