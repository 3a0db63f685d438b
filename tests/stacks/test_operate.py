"""`make shell` and `make logs` against an emulated AWS; what it does not know is in operations.py."""

import datetime
import json
import os
import signal
import subprocess
import time
from unittest import mock

import boto3
import botocore.client
import botocore.config
import pytest

import operations
from emulator import REGION, ROOT, Folder, emulator, until  # noqa: F401

# From scripts/operate, which the emulator has made known.
import logs  # isort: skip
import shell  # isort: skip

FOUNDATION = """
Resources: { Topic: { Type: AWS::SNS::Topic } }
Outputs: { SessionsLogGroup: { Value: /salebell/sessions }, ArchiveBucket: { Value: salebell-dev-archive },
  AccessLogGroup: { Value: /salebell/access }, ApplicationLogGroup: { Value: /salebell/application }, SystemLogGroup: { Value: /salebell/system } }
"""
ACCESS = """
Parameters: { TicketPattern: { Type: String, Default: "?*-?*" }, RequireMfa: { Type: String, Default: "on" } }
Resources: { Topic: { Type: AWS::SNS::Topic } }
Outputs: { SessionDocument: { Value: our-document },
  EscalationRoleArn: { Value: !Sub "arn:aws:iam::${AWS::AccountId}:role/salebell-dev-escalation" } }
"""
SERVICE = """
Resources: { Topic: { Type: AWS::SNS::Topic } }
Outputs: { LiveGroup: { Value: live }, CanaryGroup: { Value: canary } }
"""
# Says what it was given, and waits for Ctrl-C where the test wants that.
PLUGIN = """#!/usr/bin/env python3
import json, os, signal, sys, time
if sys.argv[1:] == ["--version"]:
    print(os.environ.get("PLUGIN_VERSION", "1.2.779.0")); sys.exit()
json.dump({"arguments": sys.argv[1:], "environment": dict(os.environ)}, open(os.environ["PLUGIN_SAYS"] + ".new", "w"))
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
os.rename(os.environ["PLUGIN_SAYS"] + ".new", os.environ["PLUGIN_SAYS"])
while os.environ.get("PLUGIN_WAITS") and not heard:
    time.sleep(0.02)
if heard:
    print("the shell has heard Ctrl-C", flush=True)
sys.exit(int(os.environ.get("PLUGIN_ENDS", 0)))
"""
RUN = subprocess.run
accounts = iter(f"4444{number:08}" for number in range(1000))


@pytest.fixture
def dev(emulator, tmp_path):  # noqa: F811
    """An environment of a few outputs, in an account of its own."""
    folder = Folder(tmp_path, emulator, next(accounts))
    folder.bin = tmp_path / "bin"
    folder.bin.mkdir()
    return folder


def deploy(dev, **stacks):
    for name, text in stacks.items():
        parameters = []
        if isinstance(text, tuple):
            text, values = text
            parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]
        dev.client("cloudformation").create_stack(StackName=f"salebell-dev-{name}", TemplateBody=text, Parameters=parameters)
        until(lambda: dev.status(f"dev-{name}") == "CREATE_COMPLETE", f"stack {name}")


# ---- make shell


@pytest.fixture
def anna(dev):
    """A user of the account with an instance to look at, and the plugin."""
    deploy(dev, foundation=FOUNDATION, service=SERVICE)
    deploy(dev, access=(ACCESS, {"RequireMfa": "off"}))
    come_as_anna(dev)
    dev.instance = run_instance(dev)
    return dev


def come_as_anna(dev):
    """By a role, as people of Identity Center do, and with the plugin installed."""
    role = f"arn:aws:iam::{dev.credentials['AWS_ACCESS_KEY_ID']}:role/Admin"
    keys = dev.client("sts").assume_role(RoleArn=role, RoleSessionName="anna")["Credentials"]
    dev.credentials = {"AWS_ACCESS_KEY_ID": keys["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
                       "AWS_SESSION_TOKEN": keys["SessionToken"]}  # fmt: skip
    plugin = dev.bin / "session-manager-plugin"
    plugin.write_text(PLUGIN)
    plugin.chmod(0o755)
    dev.said = dev.path / "plugin.json"


def client(dev, service):
    keys = {name.lower(): value for name, value in dev.credentials.items()}
    how = botocore.config.Config(user_agent_appid="tests")
    return boto3.client(service, endpoint_url=dev.emulator.endpoint, region_name=REGION, config=how, **keys)


def run_instance(dev):
    ec2 = client(dev, "ec2")
    tags = [{"Key": "Project", "Value": "salebell"}, {"Key": "Environment", "Value": "dev"}]
    specification = [{"ResourceType": "instance", "Tags": tags}]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    return ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=specification)["Instances"][0]["InstanceId"]


def environment(dev):
    return {"PATH": f"{dev.bin}:{os.environ['PATH']}", "PLUGIN_SAYS": str(dev.said)}


def open_shell(dev, *words, answers="", code=0, **more):
    return dev.run("shell", *words, answers=answers, code=code, **{**environment(dev), **more})


def session(dev):
    """The last session that was opened on the instance, as AWS tells it."""
    states = [client(dev, "ssm").describe_sessions(State=state)["Sessions"] for state in ("Active", "History")]
    return next((one for one in sum(states, []) if one["Target"] == dev.instance), None)


def test_a_shell_is_opened_with_a_ticket_and_ended(anna):
    said = open_shell(anna, "--ticket=OPS-17", f"--instance={anna.instance}", answers="y\n")
    told = json.loads(anna.said.read_text())
    token, region, operation, profile, given, endpoint = told["arguments"]
    assert (token, region, operation, profile, endpoint) == ("AWS_SSM_START_SESSION_RESPONSE", REGION, "StartSession", "", anna.emulator.endpoint)
    assert json.loads(given) == {"Target": anna.instance, "DocumentName": "our-document", "Reason": "OPS-17"}
    response = json.loads(told["environment"]["AWS_SSM_START_SESSION_RESPONSE"])
    assert response.keys() == {"SessionId", "TokenValue", "StreamUrl"}
    there = session(anna)
    assert (there["SessionId"], there["Status"], there["Reason"]) == (response["SessionId"], "Terminated", "OPS-17")
    assert f"the session {response['SessionId']} has ended" in said
    # What is recorded, and where it is told.
    for word in ("/salebell/sessions", "s3://salebell-dev-archive/sessions/", "as anna, with the ticket OPS-17", "the chat hears"):
        assert word in said, word


def test_the_role_is_assumed_by_name_and_with_the_ticket(anna):
    """Nothing but the plugin sees what the role is allowed with."""
    with mock.patch.object(shell.boto3, "Session", wraps=boto3.Session):
        said = open_shell(anna, "--ticket=OPS-17", f"--instance={anna.instance}", "--yes", SOMEBODYS_PROFILE="x")
    told = json.loads(anna.said.read_text())["environment"]
    assert "SOMEBODYS_PROFILE" not in told
    assert told["AWS_ACCESS_KEY_ID"] != anna.credentials["AWS_ACCESS_KEY_ID"] and told["AWS_SESSION_TOKEN"]
    mine = boto3.client(
        "sts", endpoint_url=anna.emulator.endpoint, region_name=REGION, aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"], aws_session_token=told["AWS_SESSION_TOKEN"],
        config=botocore.config.Config(user_agent_appid="tests"),
    ).get_caller_identity()["Arn"]  # fmt: skip
    assert mine.endswith(":assumed-role/salebell-dev-escalation/anna")
    for secret in (told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"], told["AWS_SESSION_TOKEN"], "token-of-"):
        assert secret not in said
    assert "--source-identity anna --tags Key=Ticket,Value=OPS-17" in said
    assert f"aws ssm start-session --target {anna.instance} --document-name our-document --reason OPS-17" in said


def test_what_is_asked_of_aws_for_a_shell(anna):
    """The emulator heeds neither filters nor tags of a session nor its length."""
    real, asked = botocore.client.BaseClient._make_api_call, {}

    def note(self, operation, parameters):
        asked[operation] = self.meta.config.user_agent_appid, parameters
        return real(self, operation, parameters)

    with mock.patch.object(botocore.client.BaseClient, "_make_api_call", note):
        open_shell(anna, "--ticket=OPS-17", f"--instance={anna.instance}", "--yes")
    _, wanted = asked["AssumeRole"]
    assert wanted.pop("RoleArn").endswith(":role/salebell-dev-escalation")
    ticket = [{"Key": "Ticket", "Value": "OPS-17"}]
    assert wanted == {"RoleSessionName": "anna", "SourceIdentity": "anna", "DurationSeconds": 3600, "Tags": ticket}
    filters = {one["Name"]: one["Values"] for one in asked["DescribeInstances"][1]["Filters"]}
    assert filters == {"tag:Environment": ["dev"], "tag:Project": ["salebell"], "instance-state-name": ["running"]}
    for operation in ("StartSession", "TerminateSession", "GetConnectionStatus"):
        assert asked[operation][0] == "escalation", "the trail does not show what for"


def test_assuming_the_role_names_the_person_and_the_ticket():
    """The emulator keeps neither name nor tag: what is asked of it."""
    person, account = mock.Mock(), mock.Mock(region=REGION)
    given = {"AccessKeyId": "a", "SecretAccessKey": "b", "SessionToken": "c"}
    person.client.return_value.assume_role.return_value = {"Credentials": given}
    wanted = {"RoleArn": "r", "SourceIdentity": "anna", "Tags": [{"Key": "Ticket", "Value": "OPS-1"}]}
    shell.assume(account, person, wanted, {"SerialNumber": "m", "TokenCode": "123456"})
    person.client.return_value.assume_role.assert_called_once_with(**wanted, SerialNumber="m", TokenCode="123456")


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "a shell needs a ticket"),
        (["--ticket=17"], "the role takes no ticket '17': it must look like ?*-?*"),
        (["--ticket=OPS-1;x"], "the role takes no ticket 'OPS-1;x'"),
        (["--ticket=OPS-1", "--instance=i-0123456789abcdef0"], "'i-0123456789abcdef0' is no running instance of dev"),
    ],
)
def test_a_shell_without_a_good_ticket_or_instance_is_refused(anna, words, told):
    said = open_shell(anna, *words, answers="y\n", code=1)
    assert told in said and "Traceback" not in said
    assert not anna.said.exists() and session(anna) is None


def test_a_ticket_is_matched_as_the_role_does_it():
    for pattern, good, bad in [("?*-?*", ["OPS-1", "a-b-c"], ["-1", "OPS-", "OPS1"]), ("INC????", ["INC1234"], ["INC123", "xINC1234"]), ("a.b", ["a.b"], ["axb"])]:
        for ticket in good:
            shell.check_ticket(ticket, pattern)
        for ticket in bad:
            with pytest.raises(shell.Refusal):
                shell.check_ticket(ticket, pattern)


def test_a_shell_is_opened_on_the_one_that_is_picked(anna):
    second = run_instance(anna)
    said = open_shell(anna, "--ticket=OPS-1", answers="2\ny\n")
    listed = [line for line in said.splitlines() if ". i-" in line]
    assert len(listed) == 2 and ", the oldest" in listed[0] and "in no group" in listed[0]
    picked = listed[1].split(". ")[1].split()[0]
    assert {anna.instance, second} >= {picked} and f"    on {picked}" in said
    assert json.loads(json.loads(anna.said.read_text())["arguments"][4])["Target"] == picked


@pytest.mark.parametrize("answer, told", [("", "none was chosen"), ("7", "'7' is no running instance"), ("1\nn", "not agreed")])
def test_nothing_is_opened_without_a_choice(anna, answer, told):
    said = open_shell(anna, "--ticket=OPS-1", answers=f"{answer}\n", code=1)
    assert told in said and not anna.said.exists()


def test_instances_are_listed_the_oldest_first_and_what_is_not_well_is_marked():
    now = datetime.datetime.now(datetime.UTC)
    there = [{"InstanceId": id, "LaunchTime": now - datetime.timedelta(hours=hours), "Placement": {"AvailabilityZone": "euc1-a"}}
             for id, hours in (("i-1", 1), ("i-2", 50), ("i-3", 2))]  # fmt: skip
    states = {"i-1": ("canary", "InService", "Healthy"), "i-2": ("live", "InService", "Healthy"), "i-3": ("live", "InService", "Unhealthy")}
    groups = [{"AutoScalingGroupName": name, "Instances": [{"InstanceId": id, "LifecycleState": state, "HealthStatus": health}
              for id, (group, state, health) in states.items() if group == name]} for name in ("live", "canary")]  # fmt: skip
    stack = {"Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in (("LiveGroup", "live"), ("CanaryGroup", "canary"))]}
    account = mock.Mock(stack=lambda name: stack, prefix="salebell-dev-", environment="dev")
    account.client.return_value.describe_auto_scaling_groups.return_value = {"AutoScalingGroups": groups}
    account.pages.return_value = iter([{"Instances": there}])
    found = shell.instances(account)
    assert [(id, bad) for id, _, bad in found] == [("i-2", False), ("i-3", True), ("i-1", False)]
    assert found[0][1] == "i-2 euc1-a InService Healthy, 2 d 2 h old, the oldest"
    assert found[2][1].endswith(", the canary's")


def test_without_the_plugin_it_says_how_to_install_it(anna):
    (anna.bin / "session-manager-plugin").unlink()
    said = open_shell(anna, "--ticket=OPS-1", code=1, PATH=str(anna.bin))
    assert "session-manager-plugin.deb" in said and "apt-get install" in said and session(anna) is None


@pytest.mark.parametrize("version", ["1.2.497.0", "1.1.61.0", ""])
def test_a_plugin_that_shows_the_token_is_refused(anna, version):
    said = open_shell(anna, "--ticket=OPS-1", "--yes", f"--instance={anna.instance}", code=1, PLUGIN_VERSION=version)
    assert "shows the session's token" in said and session(anna) is None


@pytest.mark.parametrize("program", ["#!/no/such/program\n", "#!/bin/sh\nsleep 9\n", "#!/bin/sh\nprintf '\\377'\n"])
def test_a_plugin_that_does_not_run_is_refused(anna, program):
    (anna.bin / "session-manager-plugin").write_text(program)
    with mock.patch.object(shell.subprocess, "run", lambda *words, **more: RUN(*words, **{**more, "timeout": 0.5})):
        said = open_shell(anna, "--ticket=OPS-1", "--yes", f"--instance={anna.instance}", code=1)
    assert "session-manager-plugin" in said and ("does not run" in said or "is of version" in said) and session(anna) is None


def test_an_account_without_a_name_gets_no_shell(anna):
    """The root user: no record could say who it was."""
    anna.credentials = {"AWS_ACCESS_KEY_ID": "444499999999", "AWS_SECRET_ACCESS_KEY": "test"}
    deploy_as(anna, access=ACCESS, foundation=FOUNDATION, service=SERVICE)
    said = open_shell(anna, "--ticket=OPS-1", "--yes", code=1)
    assert ":root is nobody whom a record could name" in said


def deploy_as(dev, **stacks):
    for name, text in stacks.items():
        cloudformation = client(dev, "cloudformation")
        cloudformation.create_stack(StackName=f"salebell-dev-{name}", TemplateBody=text)
        until(lambda: cloudformation.describe_stacks(StackName=f"salebell-dev-{name}")["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE", name)


@pytest.mark.parametrize("missing", ["access", "foundation", "service"])
def test_a_shell_wants_the_stacks_that_it_stands_on(dev, missing):
    deploy(dev, **{name: text for name, text in (("access", ACCESS), ("foundation", FOUNDATION), ("service", SERVICE)) if name != missing})
    come_as_anna(dev)
    if missing == "foundation":
        run_instance(dev)
    said = open_shell(dev, "--ticket=OPS-1", answers="1\n", code=1)
    assert f"salebell-dev-{missing} is not deployed" in said


def test_a_second_factor_is_asked_for_where_the_role_wants_one():
    device = {"MFADevices": [{"SerialNumber": "arn:aws:iam::1:u2f/x"}, {"SerialNumber": "arn:aws:iam::1:mfa/anna"}]}
    person = mock.Mock()
    person.client.return_value.list_mfa_devices.return_value = device
    with mock.patch.object(shell, "ask", return_value="123456"):
        wanted = {"SerialNumber": "arn:aws:iam::1:mfa/anna", "TokenCode": "123456"}
        assert shell.second_factor("arn:aws:iam::1:user/anna", person) == wanted
    with mock.patch.object(shell, "ask", return_value=""):
        assert shell.second_factor("arn:aws:iam::1:user/anna", person) == {}
    for code in ("12345", "abcdef", "1234567"):
        with mock.patch.object(shell, "ask", return_value=code), pytest.raises(shell.Refusal, match="six digits"):
            shell.second_factor("arn:aws:iam::1:user/anna", person)
    with pytest.raises(shell.Refusal, match="you come by a role"):
        shell.second_factor("arn:aws:sts::1:assumed-role/Admin/anna", person)
    person.client.return_value.list_mfa_devices.return_value = {"MFADevices": []}
    with mock.patch.object(shell, "ask", return_value=""), pytest.raises(shell.Refusal, match="no device"):
        shell.second_factor("arn:aws:iam::1:user/anna", person)


@pytest.mark.parametrize("values", [{"RequireMfa": "on"}, {}])
def test_a_role_that_wants_a_second_factor_is_not_assumed_without(dev, values):
    deploy(dev, foundation=FOUNDATION, service=SERVICE)
    deploy(dev, access=(ACCESS if values else ACCESS.replace(', RequireMfa: { Type: String, Default: "on" }', ""), values))
    come_as_anna(dev)
    dev.instance = run_instance(dev)
    said = open_shell(dev, "--ticket=OPS-1", f"--instance={dev.instance}", "--yes", code=1)
    assert "the role wants a second factor (RequireMfa), and you come by a role" in said and session(dev) is None


def test_the_role_is_assumed_as_the_person_of_a_profile(anna):
    """Where the shell's own is not of a person."""
    role = f"arn:aws:iam::{anna.emulator.client('sts').get_caller_identity()['Account']}:role/Admin"
    keys = client(anna, "sts").assume_role(RoleArn=role, RoleSessionName="berta")["Credentials"]
    file = anna.path / "config"
    file.write_text(f"[profile me]\nendpoint_url = {anna.emulator.endpoint}\naws_access_key_id = {keys['AccessKeyId']}\n"
                    f"aws_secret_access_key = x\naws_session_token = {keys['SessionToken']}\n")  # fmt: skip
    said = open_shell(anna, "--ticket=OPS-1", f"--instance={anna.instance}", "--yes", "--person=me", AWS_CONFIG_FILE=str(file))
    assert "as berta, with the ticket OPS-1" in said and "--source-identity berta" in said
    assert "could not be found" in open_shell(anna, "--ticket=OPS-1", "--yes", "--person=nobody", code=1)


def test_an_instance_without_its_agent_is_refused(anna):
    client(anna, "ec2").create_tags(Resources=[anna.instance], Tags=[{"Key": "agent", "Value": "away"}])
    said = open_shell(anna, "--ticket=OPS-1", "--yes", f"--instance={anna.instance}", code=1)
    assert f"the agent of {anna.instance} is not connected" in said and session(anna) is None


def test_a_plugin_that_fails_is_told_and_the_session_is_ended_all_the_same(anna):
    said = open_shell(anna, "--ticket=OPS-1", "--yes", f"--instance={anna.instance}", code=1, PLUGIN_ENDS="3")
    assert "session-manager-plugin ended with 3" in said and session(anna)["Status"] == "Terminated"


def started(anna):
    words = ["--environment=dev", f"--folder={anna.path}", "--ticket=OPS-1", "--yes", f"--instance={anna.instance}"]
    process = anna.emulator.start("shell", *words, **anna.credentials, **environment(anna), PLUGIN_WAITS="1")
    until(anna.said.exists, "the plugin")
    return process


def test_ctrl_c_is_the_shells_own(anna):
    process = started(anna)
    # Ctrl-C reaches both: ours first, then the plugin, as a terminal would send it.
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None and session(anna)["Status"] == "Active"
    plugin = int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout)
    os.kill(plugin, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "the shell has heard Ctrl-C" in said and "has ended" in said
    assert session(anna)["Status"] == "Terminated"


def test_a_shell_whose_terminal_goes_away_is_ended(anna):
    process = started(anna)
    process.send_signal(signal.SIGHUP)
    said, _ = process.communicate(timeout=60)
    assert session(anna)["Status"] == "Terminated" and "Traceback" not in said


# ---- make logs


def put(dev, group, *lines, stream="i-1", ago=30):
    """Lines in a group, the first of them `ago` seconds ago and each a second later."""
    there = dev.client("logs")
    for make, name in ((there.create_log_group, {}), (there.create_log_stream, {"logStreamName": stream})):
        try:
            make(logGroupName=f"/salebell/{group}", **name)
        except there.exceptions.ResourceAlreadyExistsException:
            pass
    now = time.time() - ago
    events = [{"timestamp": int((now + at) * 1000), "message": line if isinstance(line, str) else json.dumps(line)} for at, line in enumerate(lines)]
    there.put_log_events(logGroupName=f"/salebell/{group}", logStreamName=stream, logEvents=events)


def line(message, level="info", **more):
    return {"time": "2026-01-01T00:00:00Z", "level": level, "unit": "salebell-api", "message": message, **more}


def test_all_lines_of_a_request_come_in_their_order(dev):
    deploy(dev, foundation=FOUNDATION)
    put(dev, "access", line("GET /v1/games", request_id="abc-1"), line("GET /v1/deals", request_id="other"), ago=50)
    put(dev, "application", line("first", request_id="abc-1"), ago=60)
    put(dev, "application", line("last", "error", request_id="abc-1", target="salebell::error"), ago=40, stream="i-2")
    put(dev, "system", "nothing of it")
    said = dev.run("logs", "--request-id=abc-1", environment="dev")
    shown = [text for text in said.splitlines() if "abc-1" in text and not text.startswith(("$", "    ", "==>"))]
    assert [word for text in shown for word in ("first", "GET", "last") if word in text] == ["first", "GET", "last"]
    assert "ERROR   salebell::error last" in shown[2] and "i-2" in shown[2] and "GET /v1/deals" not in said
    assert "/salebell/access, /salebell/application, /salebell/system, from " in said and said.endswith("3 lines\n")
    assert """$ aws logs filter-log-events --log-group-name /salebell/access""" in said


def test_lines_come_as_the_log_has_them(dev):
    deploy(dev, foundation=FOUNDATION)
    put(dev, "application", line("x", request_id="abc-1"))
    for group in ("access", "system"):
        put(dev, group, "y")
    said = dev.run("logs", "--request-id=abc-1", "--json")
    assert json.dumps(line("x", request_id="abc-1")) in said.splitlines()


def test_a_group_that_is_missing_is_told_and_the_others_are_shown(dev):
    deploy(dev, foundation=FOUNDATION)
    put(dev, "application", line("x", request_id="abc-1"))
    said = dev.run("logs", "--request-id=abc-1", code=1)
    assert "error: /salebell/access cannot be read" in said and " x " in said and "Traceback" not in said


@pytest.mark.parametrize(
    "words, told",
    [
        (["--request-id=a b"], "REQUEST_ID= is what the header"),
        (["--request-id=\"x"], "REQUEST_ID= is what the header"),
        (["--since=5"], "SINCE= is a span such as 90s"),
        (["--since=91d"], "of 90 days at the most"),
        (["--level=loud"], "LEVEL= is one of emergency"),
        (["--group=sessions"], "GROUP= is one of access, application, system"),
        ([], "salebell-dev-foundation is not deployed"),
    ],
)
def test_what_logs_cannot_look_for_is_refused(dev, words, told):
    said = dev.run("logs", *words, code=1)
    assert told in said and "Traceback" not in said


def test_logs_are_followed_until_ctrl_c(dev):
    deploy(dev, foundation=FOUNDATION)
    put(dev, "application", line("before"), line("careful", "warning"))
    for group in ("access", "system"):
        put(dev, group, line("other"))
    process = dev.emulator.start("logs", "--environment=dev", f"--folder={dev.path}", "--level=warning", **dev.credentials)
    shown = []
    for text in process.stdout:
        shown.append(text)
        if "careful" in text:
            break
    put(dev, "application", line("worse", "error"), ago=1)
    for text in process.stdout:
        shown.append(text)
        if "worse" in text:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    said = "".join(shown) + rest
    assert process.returncode == 0 and "stopped after 2 lines" in said and "before" not in said
    assert said.count("careful") == 1, "a line came twice"


def test_no_more_lines_are_remembered_than_are_bounded():
    seen = logs.Seen()
    with mock.patch.object(logs, "REMEMBERED", 10):
        assert all(seen.new(str(number)) for number in range(100))
    assert len(seen.ids) == len(seen.order) == 10 and not seen.new("99")


def test_a_page_is_in_memory_at_a_time():
    """Lines are asked for as they are shown."""
    asked = []

    def pages(**wanted):
        for number in range(1000):
            asked.append(number)
            yield {"events": [{"timestamp": number, "eventId": str(number), "message": "x"}]}

    account = mock.Mock()
    account.client.return_value.get_paginator.return_value.paginate = pages
    lines = logs.follow([logs.Group(account, name, None) for name in ("a", "b")], 0, once=True)
    for _ in range(10):
        next(lines)
    assert len(asked) < 30


def test_a_line_does_nothing_to_the_terminal(capsys):
    text = json.dumps({"level": "info", "unit": "u", "message": "a\x1b]0;x\x07\x1b[2Jb\nc"})
    logs.say(logs.readable((0, "1", "/salebell/access", "i-1", text)))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and shown.count("\n") == 1 and "\\u001b[2Jb c" in shown
    for bad, told in (("\x1b[31m", "\\u001b[31m"), ("\u202e", "\\u202e"), ("\u2066", "\\u2066"), ("\x9b2J", "\\u009b2J"), ("\r", "\\r"), ("\t\n", "  ")):
        logs.say(logs.readable((0, "1", "/salebell/system", "i-1", f"not {bad}json")))
        assert capsys.readouterr().out.endswith(f"not {told}json\n")
    assert logs.readable((0, "1", "/salebell/system", "i-1", "[1]")).endswith("[1]")


def test_a_line_as_the_log_has_it_does_nothing_to_the_terminal_either(dev):
    """JSON writes them so, too: who reads it by a program gets what was sent."""
    deploy(dev, foundation=FOUNDATION)
    for group in ("access", "system"):
        put(dev, group, "y")
    sent = line("\x1b]0;x\x07 \x9b2J \u202eabc \U000e0041", request_id="abc-1")
    put(dev, "application", json.dumps(sent, ensure_ascii=False))
    (shown,) = [text for text in dev.run("logs", "--request-id=abc-1", "--json").splitlines() if text.startswith("{")]
    assert shown.isprintable() and json.loads(shown) == sent


def test_a_line_that_comes_late_is_shown_once_and_a_group_that_fails_ends_it(monkeypatch):
    now, asked = [1_000.0], []
    monkeypatch.setattr(logs.time, "time", lambda: now[0])
    monkeypatch.setattr(logs.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def pages(**wanted):
        asked.append((wanted["startTime"], wanted["endTime"]))
        if len(asked) > 10:
            raise logs.FAILURES[1]()
        yield {"events": [{"timestamp": 1, "eventId": "1", "message": "x"}, {"timestamp": 2, "eventId": str(len(asked) // 9), "message": "y"}]}

    account = mock.Mock()
    account.client.return_value.get_paginator.return_value.paginate = pages
    lines = logs.follow([logs.Group(account, "a", None)], 900_000, once=False)
    assert [next(lines)[1] for _ in range(2)] == ["1", "0"]
    with pytest.raises(logs.Refusal, match="none of the groups can be read"):
        next(lines)
    # The last 20 s are asked for again, and nothing before the beginning.
    assert asked[:2] == [(900_000, 1_000_000), (980_000, 1_003_000)]


# ---- all of them


def test_make_hands_over_what_it_is_given():
    for command, words, wanted in [
        ("shell", ["INSTANCE=i-1", "TICKET=OPS-1", "PERSON=me", "YES=1"], "--instance=i-1 --ticket=OPS-1 --person=me --yes"),
        ("shell", [], ""),
        ("logs", ["REQUEST_ID=a", "SINCE=2h", "LEVEL=error", "GROUP=access", "JSON=1"],
         "--request-id=a --since=2h --level=error --group=access --json"),
        ("mute", ["MINUTES=30", "REASON=a cluster is restored"], "--minutes=30 --reason=a cluster is restored"),
    ]:  # fmt: skip
        done = subprocess.run(["make", "-n", command, "ENV=dev", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        said = " ".join(done.stdout.replace("'", "").split())
        assert said == f"scripts/stacks.sh {command} --environment=dev {wanted}".strip()


def test_the_commands_are_short_enough_to_be_read():
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "scripts/operate").glob("*.py")}
    assert max(lengths.values()) <= 240, lengths


def test_an_operation_that_the_emulator_has_learnt_must_leave_the_list():
    def put_metric_alarm(given, account):
        return {}

    with mock.patch.dict(operations.OPERATIONS, {"cloudwatch": (put_metric_alarm,)}, clear=True), pytest.raises(SystemExit, match="PutMetricAlarm"):
        operations.register()
