"""Writes down what the operator's commands call on AWS, where SALEBELL_TEST_CALLS names a file: `deploy ec2:DescribeImages`,
each once a process (tests/stacks/recorded.py), under the role that the command is for. Python imports a module of this name by itself; the emulator of the tests has
this folder on the commands' path."""

import os
import pathlib
import sys

# By the name of a command: the table of cloudformation/calls for the role that runs it. All others are run by deploy's.
TABLES = {"logs": "on-call", "mute": "on-call", "shell": "on-call"}


def record(file):
    import botocore.client

    call, seen = botocore.client.BaseClient._make_api_call, set()

    def call_and_record(self, operation, parameters):
        service = {"monitoring": "cloudwatch"}.get(self.meta.service_model.signing_name, self.meta.service_model.signing_name)
        # The tests' own clients say so, and so does `make shell` where it has assumed a role.
        who = self.meta.config.user_agent_appid or TABLES.get(pathlib.Path(sys.argv[0]).stem, "deploy")
        if who != "tests" and (who, service, operation) not in seen:
            seen.add((who, service, operation))
            with open(file, "a") as lines:
                lines.write(f"{who} {service}:{operation}\n")
        return call(self, operation, parameters)

    botocore.client.BaseClient._make_api_call = call_and_record


if os.environ.get("SALEBELL_TEST_CALLS"):
    record(os.environ["SALEBELL_TEST_CALLS"])
