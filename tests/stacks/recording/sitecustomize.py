"""Writes down what the operator's commands call on AWS, where SALEBELL_TEST_CALLS names a file: `deploy ec2:DescribeImages`,
each once a process (tests/stacks/recorded.py). Python imports a module of this name by itself; the emulator of the tests has
this folder on the commands' path."""

import os


def record(file):
    import botocore.client

    call, seen = botocore.client.BaseClient._make_api_call, set()

    def call_and_record(self, operation, parameters):
        service = {"monitoring": "cloudwatch"}.get(self.meta.service_model.signing_name, self.meta.service_model.signing_name)
        # The tests' own clients say so.
        if self.meta.config.user_agent_appid != "tests" and (service, operation) not in seen:
            seen.add((service, operation))
            with open(file, "a") as lines:
                # What a step of the pipelines calls with its own role, not with that of the environment.
                who = "pipeline" if self.meta.config.user_agent_appid == "pipeline" else "deploy"
                lines.write(f"{who} {service}:{operation}\n")
        return call(self, operation, parameters)

    botocore.client.BaseClient._make_api_call = call_and_record


if os.environ.get("SALEBELL_TEST_CALLS"):
    record(os.environ["SALEBELL_TEST_CALLS"])
