"""A deployment of all stacks on an emulated AWS, which several tests look at."""

import os
import re
import subprocess

import botocore.exceptions

import deploy_page
import resolve
from emulator import REGION, ROOT, Emulator

APPLIANCE = ROOT / "systemd" / "salebell" / "appliance.toml"

# The last step of the page, which ends the story.
AWAY = "Remove the environment"


class Deployment:
    """The environment dev on a MiniStack of its own, as docs/guides/deploy.md has an operator make it."""

    def __init__(self, folder):
        self.emulator = Emulator(folder)
        self.shell, self.page = deploy_page.Shell(folder, self.emulator), deploy_page.blocks(deploy_page.PAGE.read_text())
        try:
            for block in self.page:
                if block.step != AWAY:
                    self.shell.run(block)
        except BaseException:
            # Nobody else can: there is no fixture yet.
            self.stop()
            raise
        # What the page has written into the file of dev.
        self.values = self.shell.parameters()

    def stop(self):
        self.shell.stop()
        self.emulator.stop()

    def block(self, step, commands):
        """The block of a step of the page that begins with these commands."""
        return next(one for one in self.page if one.step == step and one.commands.startswith(commands))

    def client(self, service):
        return self.emulator.client(service)

    def deploy(self, *words, code=0, folder=None, **values):
        given = [f"{key}={value}" for key, value in {**self.values, **values}.items()]
        where = [f"--folder={folder}"] if folder else []
        return self.emulator.run("deploy", "--environment=dev", "--yes", *where, *words, *given, code=code)

    def stack(self, name):
        return self.client("cloudformation").describe_stacks(StackName=f"salebell-dev-{name}")["Stacks"][0]

    def outputs(self, name):
        return {output["OutputKey"]: output["OutputValue"] for output in self.stack(name)["Outputs"]}

    def resources(self, name):
        """Physical ids by logical ones."""
        found = self.client("cloudformation").describe_stack_resources(StackName=f"salebell-dev-{name}")["StackResources"]
        return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found}

    def group(self, kind):
        name = self.outputs("service")[kind]
        groups = self.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
        return groups["AutoScalingGroups"][0]

    def launched(self, kind="LiveGroup"):
        """The version of the launch template that a group points at."""
        launch = self.group(kind)["LaunchTemplate"]
        versions = self.client("ec2").describe_launch_template_versions(
            LaunchTemplateId=launch["LaunchTemplateId"], Versions=[launch["Version"]]
        )
        return versions["LaunchTemplateVersions"][0]

    def refreshes(self):
        name = self.outputs("service")["LiveGroup"]
        return self.client("autoscaling").describe_instance_refreshes(AutoScalingGroupName=name)["InstanceRefreshes"]

    def suspend(self):
        """What SuspendProcesses answers; None where it is unknown."""
        try:
            return self.client("autoscaling").suspend_processes(AutoScalingGroupName=self.outputs("service")["LiveGroup"])
        except botocore.exceptions.ClientError as error:
            assert "Unknown AutoScaling action" in str(error)

    def settings(self):
        pages = self.client("ssm").get_paginator("get_parameters_by_path")
        found = [one for page in pages.paginate(Path="/salebell/", Recursive=True) for one in page["Parameters"]]
        return {one["Name"].removeprefix("/salebell/dev/"): one["Value"] for one in found}

    def give_webhook_keys(self):
        """CloudFormation has them made like this. MiniStack's does not look at what is excluded, its GetRandomPassword does."""
        secrets, secret = self.client("secretsmanager"), self.settings()["webhook/encryption_keys"].removeprefix("secret:")
        declared = resolve.resolve("data", "dev")["Resources"]["WebhookSecret"]["Properties"]["GenerateSecretString"]
        value = secrets.get_random_password(**declared)["RandomPassword"]
        assert re.fullmatch(r"[0-9a-f]{64}", value)
        secrets.put_secret_value(SecretId=secret, SecretString=value)

    def check_settings(self):
        """`salebell boot --check`, which reads all parameters and secrets as a boot does, and refuses unknown names."""
        binary = os.environ.get("SALEBELL_BINARY") or ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug" / "salebell"
        command = [binary, "boot", "--check", "--environment=dev", f"--region={REGION}", f"--config={APPLIANCE}"]
        checked = subprocess.run(command, env=self.emulator.environment, capture_output=True, text=True, timeout=120)
        assert checked.returncode == 0, checked.stdout + checked.stderr
