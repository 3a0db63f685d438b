"""Opens a recorded shell on an instance, for an hour at most, with a ticket.

It assumes the escalation role of the stack `access` under the caller's name, starts a session with the document of the stack, and
passes it to AWS's session-manager-plugin. Only the plugin gets the credentials of the role.
"""

import datetime
import json
import os
import re
import shutil
import signal
import subprocess

import boto3
from botocore import config
from cloud import FAILURES, Refusal, agree, outputs, run, say
from words import ask, command, output

PLUGIN = "session-manager-plugin"
# Up to this version the plugin gets the session's token as an argument, which every user of the machine can read.
TOO_OLD = (1, 2, 497, 0)
TOKEN = "AWS_SSM_START_SESSION_RESPONSE"
INSTALL = f"""\
{PLUGIN} is not installed, which speaks the protocol of sessions. On Debian and Ubuntu, by AWS's package:
      curl -fsSLO https://s3.amazonaws.com/session-manager-downloads/plugin/latest/ubuntu_64bit/{PLUGIN}.deb
      sudo apt-get install ./{PLUGIN}.deb
    (ubuntu_arm64 in place of ubuntu_64bit on arm64; on macOS: brew install --cask {PLUGIN}). All others:
      https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html"""


def check_ticket(ticket, pattern):
    """As the role's trust policy does it: `*` is anything, `?` one letter, and all else itself."""
    if not ticket:
        raise Refusal("a shell needs a ticket, which says what it is for: TICKET=OPS-123")
    as_regex = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    if not re.fullmatch(as_regex, ticket, re.S) or not re.fullmatch(r"[\w .:/=+@-]{1,256}", ticket):
        raise Refusal(f"the role takes no ticket {ticket!r}: it must look like {pattern} (* is anything, ? one letter)")


def name_of(arn):
    """Whose name the session bears: the end of arn:aws:iam::…:user/anna or arn:aws:sts::…:assumed-role/Admin/anna."""
    name = arn.rsplit("/", 1)[-1]
    if "/" not in arn or not re.fullmatch(r"[\w+=,.@-]{2,64}", name, re.A):
        raise Refusal(f"{arn} is nobody whom a record could name: come as a user, or by a role under your own name")
    return name


def plugin():
    """The plugin's path. It must be new enough to be given the token out of sight."""
    path = shutil.which(PLUGIN)
    if not path:
        raise Refusal(INSTALL)
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal(f"{path} does not run: {error}") from None
    said = result.stdout.strip()
    if not re.fullmatch(r"\d+(\.\d+){0,3}", said) or tuple(map(int, said.split("."))) <= TOO_OLD:
        what = "which shows the session's token to all who use this machine"
        raise Refusal(f"{path} is of version {said or 'unknown'}, {what}: install a newer one")
    return path


def instances(account):
    """Running instances of both groups, the oldest first: id, and a line for people."""
    service = account.stack(account.prefix + "service")
    names = [outputs(service)[kind] for kind in ("LiveGroup", "CanaryGroup") if kind in outputs(service)]
    if not names:
        raise Refusal(f"{account.prefix}service is not deployed: there is no instance to look at")
    groups = account.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=names)["AutoScalingGroups"]
    members = {one["InstanceId"]: (group, one) for group in groups for one in group["Instances"]}
    wanted = [{"Name": "tag:Environment", "Values": [account.environment]}, {"Name": "tag:Project", "Values": ["salebell"]},
              {"Name": "instance-state-name", "Values": ["running"]}]  # fmt: skip
    there = {
        one["InstanceId"]: one
        for reservation in account.pages("ec2", "describe_instances", "Reservations", Filters=wanted)
        for one in reservation["Instances"]
    }
    found = []
    for number, one in enumerate(sorted(there.values(), key=lambda one: (one["LaunchTime"], one["InstanceId"]))):
        group, member = members.get(one["InstanceId"], (None, {"LifecycleState": "in no group", "HealthStatus": "?"}))
        state = f"{member['LifecycleState']} {member['HealthStatus']}"
        age = datetime.datetime.now(datetime.UTC) - one["LaunchTime"]
        line = f"{one['InstanceId']} {one['Placement']['AvailabilityZone']} {state}, {age.days} d {age.seconds // 3600} h old"
        line += ", the canary's" if group and group["AutoScalingGroupName"] == outputs(service).get("CanaryGroup") else ""
        line += ", the oldest" if number == 0 and len(there) > 1 else ""
        found.append((one["InstanceId"], line, state != "InService Healthy"))
    if not found:
        raise Refusal(f"no instance of {account.environment} runs (make status ENV={account.environment})")
    return found


def choose(account, named):
    """The instance that is named, or that the operator picks from a list."""
    found = instances(account)
    if not named:
        for number, (_, line, bad) in enumerate(found, 1):
            say(f"  {'!' if bad else ' '} {number}. {line}", "red" if bad else None)
        named = ask(f"which one? [1-{len(found)}, or its id; nothing: none]")
        if re.fullmatch(r"[1-9]\d{0,3}", named) and int(named) <= len(found):
            named = found[int(named) - 1][0]
        if not named:
            raise Refusal("none was chosen; nothing was opened")
    lines = [line for id, line, _ in found if id == named]
    if not lines:
        raise Refusal(f"{named!r} is no running instance of {account.environment}: {', '.join(id for id, _, _ in found)} are")
    return named, lines[0]


def second_factor(caller, person):
    """The MFA arguments of AssumeRole; empty if the caller's session was opened with a device."""
    if ":user/" not in caller:
        raise Refusal(
            "the role wants a second factor (RequireMfa), and you come by a role, of which AWS tells nothing of the kind:\n"
            "    come as a user, PERSON=PROFILE names one; where Identity Center asks for it, access.RequireMfa is off"
        )
    try:
        devices = [one["SerialNumber"] for one in person.client("iam").list_mfa_devices()["MFADevices"]]
    except FAILURES:
        devices = []
    devices = [one for one in devices if ":u2f/" not in one]
    device = devices[0] if devices else ask("the device of your second factor [arn:aws:iam::…:mfa/…, or its number]")
    if not device:
        raise Refusal("the role wants a second factor, and there is no device that shows codes")
    code = ask(f"code of {device} [six digits; nothing: this session was opened with it]")
    if code and not re.fullmatch(r"\d{6}", code):
        raise Refusal("a code is six digits")
    return {"SerialNumber": device, "TokenCode": code} if code else {}


def assume(account, person, wanted, factor):
    """A session of the role, and its credentials."""
    try:
        given = person.client("sts", region_name=account.region).assume_role(**wanted, **factor)["Credentials"]
    except FAILURES as error:
        raise Refusal(f"{error}\n    may you assume the role, and is the code a new one? (docs/guides/escalate.md)") from None
    keys = dict(zip(("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
                    (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])))  # fmt: skip
    # The trail shows the name of the program with each of its calls.
    how = config.Config(user_agent_appid="escalation", connect_timeout=5, read_timeout=20)
    return boto3.Session(region_name=account.region, **keys).client("ssm", config=how), keys


def talk(path, account, client, keys, parameters, response):
    """Gives the terminal to the plugin until the shell ends. Ctrl-C, Ctrl-Z and Ctrl-\\ go to the shell."""
    token = {name: response[name] for name in ("SessionId", "TokenValue", "StreamUrl")}
    # Without the caller's own credentials, which could be used in place of the role's.
    own = {name: value for name, value in os.environ.items() if not name.endswith(("_PROFILE", "_SECURITY_TOKEN"))}
    role = {name.upper(): value for name, value in keys.items()}
    environment = {**own, **role, "AWS_REGION": account.region, TOKEN: json.dumps(token)}
    words = [path, TOKEN, account.region, "StartSession", "", json.dumps(parameters), client.meta.endpoint_url]
    # A handler that does nothing, instead of SIG_IGN, which the plugin would inherit.
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)}
    try:
        with subprocess.Popen(words, env=environment) as process:
            before |= {one: signal.signal(one, lambda *_: process.terminate()) for one in (signal.SIGTERM, signal.SIGHUP)}
            return process.wait()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def main(account, options):
    access = account.stack(account.prefix + "access")
    role, document = output(account, "access", "EscalationRoleArn"), output(account, "access", "SessionDocument")
    values = {one["ParameterKey"]: one["ParameterValue"] for one in access.get("Parameters", [])}
    check_ticket(options.ticket, values.get("TicketPattern", "?*-?*"))
    path, person, caller = plugin(), account.session, account.caller
    if options.person:
        person = boto3.Session(profile_name=options.person)
        caller = person.client("sts", region_name=account.region).get_caller_identity()["Arn"]
    name = name_of(caller)
    account.introduce("opens a shell on an instance")
    instance, line = choose(account, options.instance)
    wanted = {"RoleArn": role, "RoleSessionName": name, "SourceIdentity": name, "DurationSeconds": 3600}
    wanted["Tags"] = [{"Key": "Ticket", "Value": options.ticket}]
    parameters = {"Target": instance, "DocumentName": document, "Reason": options.ticket}
    group, bucket = output(account, "foundation", "SessionsLogGroup"), output(account, "foundation", "ArchiveBucket")
    topic = "the pager" if account.environment == "prod" else "the chat"
    say(f"    on {line}\n    as {name}, with the ticket {options.ticket}")
    say(f"    all that the shell shows is recorded, while it lasts in {group}, and afterwards in s3://{bucket}/sessions/")
    say(f"    {topic} hears of the role, and of the shell; it ends after 20 minutes without a key, and after 60 in any case")
    tag = f"Key=Ticket,Value={options.ticket}"
    say(command(account, "sts", "assume-role", roleArn=role, roleSessionName=name, sourceIdentity=name, tags=tag))
    say(command(account, "ssm", "start-session", target=instance, documentName=document, reason=options.ticket))
    if not options.yes:
        agree("open it?")
    factor = second_factor(caller, person) if values.get("RequireMfa", "on") == "on" else {}
    client, keys = assume(account, person, wanted, factor)
    if client.get_connection_status(Target=instance)["Status"] != "connected":
        raise Refusal(f"the agent of {instance} is not connected: it does not run, or has no way out (make logs GROUP=system)")
    response, code = client.start_session(**parameters), None
    try:
        say(f"==> the session {response['SessionId']} is open; `exit` ends it")
        code = talk(path, account, client, keys, parameters, response)
    finally:
        # Also ends a session that the plugin has left open, which would otherwise last until its time limit.
        say(command(account, "ssm", "terminate-session", sessionId=response["SessionId"]))
        try:
            client.terminate_session(SessionId=response["SessionId"])
        except FAILURES as error:
            say(f"    it had ended already: {error}")
        say(f"==> the session {response['SessionId']} has ended. Its record: ask sessions 'sort @timestamp desc | limit 50'")
    if code:
        raise Refusal(f"{PLUGIN} ended with {code}")


if __name__ == "__main__":
    run(
        main,
        __doc__.splitlines()[0],
        instance={"default": "", "help": "id of the instance; without it all are listed"},
        ticket={"default": "", "help": "ticket that the shell is for"},
        person={"default": "", "help": "profile to assume the role with, if the current one is not a person's"},
        yes="does not ask before it opens the shell",
    )
