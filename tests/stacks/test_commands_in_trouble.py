"""The operator's commands where something is wrong around them: the network, a file, another operator, a stack that has failed."""

import os
import socket
import subprocess
import sys
import time
from unittest import mock

import botocore.exceptions
import pytest

from emulator import COMMANDS, LIBRARY, Folder, emulator, free_port, until  # noqa: F401
import changes
import cloud
import status
from test_commands import BROKEN, BUS, SERVICE, folder, read_until  # noqa: F401

REFUSED = botocore.exceptions.ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DescribeAlarms")


@pytest.mark.parametrize("endpoint", ["nobody listens", "no address", "not AWS"])
def test_out_of_reach_of_aws_it_says_so_soon(folder, endpoint):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    port, before = free_port(), time.monotonic()
    where = f"http://127.0.0.1:{port}" if endpoint != "no address" else "salebell"
    web = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder.path)]
    server = subprocess.Popen(web, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) if endpoint == "not AWS" else None
    try:
        if server:
            until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "the web server")
        text = folder.run("status", code=1, AWS_ENDPOINT_URL=where)
    finally:
        if server:
            server.kill()
            server.wait()
    assert text.startswith("error: ") and "AWS does not say who you are: is there a network, is AWS_PROFILE= right" in text
    assert time.monotonic() - before < 15


def test_who_answers_nothing_is_not_waited_for_long(folder):  # noqa: F811
    with mock.patch.dict(os.environ, {**folder.emulator.environment, **folder.credentials}, clear=True):
        account = cloud.Account("dev")
    for client in (account.client("sts", 1), account.cloudformation):
        assert client.meta.config.connect_timeout <= 5 and client.meta.config.read_timeout <= 20
    assert account.client("sts", 1).meta.config.retries["total_max_attempts"] == 2


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"bus": {"Name": "x"},}', "line 1 column 2"),
        ('{"bus": 5}', 'dev.json, bus: must be values by name, such as {"MinSize": 2}, not 5'),
        ("[]", 'dev.json: must be values by stack, such as {"service": {"MinSize": 2}}'),
        ('{"bus": {"Name": ["1", "2"]}}', 'dev.json, bus: Name must be text or a number, not ["1", "2"]'),
        ('{"bus": {"Name": true}}', "dev.json, bus: Name must be text or a number, not true"),
    ],
)
def test_a_parameter_file_that_cannot_be_meant_is_refused_by_name(folder, text, told):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    (folder.path / "parameters" / "dev.json").write_text(text)
    said = folder.run("deploy", "--yes", code=1)
    assert "dev.json" in said and told in said


def test_a_template_that_is_not_yaml_is_refused_by_name(folder):  # noqa: F811
    folder.template("40-bus.yaml", BUS + "  - [\n")
    said = folder.run("deploy", "--yes", code=1)
    assert said.startswith("error: ") and "40-bus.yaml: while parsing" in said


def test_a_value_that_no_template_allows_is_said_before_anything_is_changed(folder):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    folder.template("60-service.yaml", SERVICE.replace("MinSize: { Type: String,", "MinSize: { Type: String, AllowedValues: [2, 4],"))
    folder.values("dev", service={"ImageId": "ami-1", "MinSize": 3})
    assert "service: MinSize is '3', and must be one of 2, 4" in folder.run("deploy", "--yes", code=1)
    assert folder.status("bus") is None
    folder.run("deploy", "--yes", "MinSize=4")


def test_the_stack_of_another_account_is_not_deployed(folder):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    folder.template("90-pipelines.yaml", BUS)
    assert "dev has no stack 'pipelines': STACK= may be bus" in folder.run("deploy", "--yes", "--stack=pipelines", code=1)
    assert "tools has no stack 'bus': STACK= may be pipelines" in folder.run("deploy", "--stack=bus", environment="tools", code=1)


def test_a_printed_command_names_the_region(folder):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    said = folder.run("deploy", "--yes") + folder.run("destroy", "--yes")
    commands = [line for line in said.splitlines() if line.startswith("$ aws ")]
    assert len(commands) == 3 and all(line.endswith(" --region eu-central-1") for line in commands)


@pytest.mark.parametrize("state, deleted", [("REVIEW_IN_PROGRESS", True), ("CREATE_IN_PROGRESS", False), ("CREATE_COMPLETE", False)])
def test_a_no_deletes_no_stack_that_somebody_else_has_made_meanwhile(state, deleted):
    """MiniStack has a stack for each first change set. On AWS both are of the same one, and the other is executed by now."""
    ours = mock.Mock(existing=None, request={"StackName": "s", "ChangeSetName": "c"})
    ours.account.stack.return_value = {"StackStatus": state}
    changes.ChangeSet.discard(ours)
    assert ours.account.cloudformation.delete_change_set.called
    assert ours.account.cloudformation.delete_stack.called == deleted


def test_a_stack_that_was_nothing_yet_is_gone_without_an_event():
    account = mock.Mock(events=lambda *_: [], stack=lambda _: {"StackStatus": "DELETE_COMPLETE"})
    account.first_failure = lambda events: cloud.Account.first_failure(account, events)
    assert cloud.Account.follow(account, "s", "token")[0]["StackStatus"] == "DELETE_COMPLETE"


def test_protection_is_printed_as_a_command_on_and_off(folder):  # noqa: F811
    folder.template("00-bootstrap.yaml", BUS)
    words = "$ aws cloudformation update-termination-protection --stack-name salebell-dev-bootstrap"
    assert f"\n{words} --enable-termination-protection --region eu-central-1\n" in folder.run("deploy", "--yes")
    assert f"\n{words} --no-enable-termination-protection --region eu-central-1\n" in folder.run("destroy", "--yes")
    assert "\n    0 stacks:\n" in folder.run("destroy", "--yes")


def test_two_operators_at_once(folder):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    folder.run("deploy", "--yes")
    first = folder.start("deploy", "Colour=red")
    read_until(first, "[y/N]")
    folder.run("deploy", "--yes", "Colour=blue")
    said, _ = first.communicate("y\n", timeout=60)
    assert first.returncode == 1 and "Has somebody else changed the stack since? Run the same command again" in said
    values = {one["ParameterKey"]: one["ParameterValue"] for one in folder.stack("bus")["Parameters"]}
    assert values["Colour"] == "blue"


def test_status_looks_at_everything_though_a_create_has_failed(folder):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    folder.client("cloudformation").create_stack(StackName="salebell-dev-bus", TemplateBody=BROKEN)
    until(lambda: folder.status("bus") == "ROLLBACK_COMPLETE", "the create to fail")
    said = folder.run("status", code=1)
    assert "! bus ROLLBACK_COMPLETE: " in said and "(make deploy ENV=dev STACK=bus goes on from there)" in said
    assert "==> alerts" in said and said.rstrip().endswith("\n1 needs a person")


def test_status_looks_at_everything_though_something_is_forbidden(capsys):
    account = mock.Mock(environment="dev")
    account.names.return_value, account.client().get_paginator.side_effect = [], REFUSED
    account.client().list_alarm_mute_rules.return_value = {"AlarmMuteRuleSummaries": []}
    assert status.main(account, None) == 1
    said = capsys.readouterr().out
    assert "! this could not be looked at: An error occurred (AccessDenied)" in said.split("==> alarms")[1].split("==> alerts")[0]
    assert said.rstrip().endswith("1 needs a person")


def test_status_says_when_settings_wait_for_a_roll(folder):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    folder.template("60-service.yaml", SERVICE)
    folder.values("dev", service={"ImageId": "ami-1"})
    folder.run("deploy", "--yes")
    assert "nothing needs a person" in folder.run("status")
    ssm = folder.client("ssm")
    ssm.put_parameter(Name="/salebell/dev/auth/issuers", Value="x", Type="String")
    folder.run("status")
    ssm.put_parameter(Name="/salebell/dev/log/level", Value="debug", Type="String")
    assert "settings have changed that instances read only when they start (make deploy ENV=dev STACK=service" in folder.run("status", code=1)
    folder.run("deploy", "--yes", "--stack=service")
    folder.run("status")


def test_who_reads_only_the_beginning_sees_no_traceback(folder):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    command = [sys.executable, LIBRARY / "start.py", COMMANDS / "status.py", "--environment=dev", f"--folder={folder.path}"]
    environment = {**folder.emulator.environment, **folder.credentials, "PYTHONPATH": str(LIBRARY)}
    piped = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    piped.stdout.readline()
    piped.stdout.close()
    assert piped.stderr.read() == "" and piped.wait(60) == 1
