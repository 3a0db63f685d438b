"""Launches an instance of an image alone, checks it, and terminates it: it answers, is as it should be (check-instance.sh), and boots
in time. It is separate from the service: it has settings of its own, and no database."""

import shlex
import time

from botocore import exceptions
from cloud import Refusal, in_progress, outputs, pauses, run, say
from templates import ROOT

NAME = "salebell-tools-verify"
TYPES = {"arm64": "t4g.small", "x86_64": "t3a.small"}
# An instance boots in half a minute; its Systems Manager agent takes the same time again.
ONLINE_S, CHECKS_S = 300, 240
# Only /readyz needs a database. check-instance.sh knows the limit of a boot, and prints the time of this one.
COMMAND = """curl --silent --show-error --fail --insecure --max-time 5 --retry 30 --retry-delay 2 --retry-all-errors \
https://127.0.0.1:8443/healthz && echo && /usr/lib/salebell/check-instance.sh $(/usr/lib/salebell/check-instance.sh --list | grep -vx ready)"""


def clear(account):
    """Removes the remains of an earlier run, or of a concurrent one."""
    stack = account.stack(NAME)
    if stack and in_progress(stack):
        say(f"    {NAME} is in {stack['StackStatus']}, of an earlier run: waiting for it")
        stack, _ = account.follow(stack["StackId"])
        stack = None if stack["StackStatus"] == "DELETE_COMPLETE" else stack
    if stack:
        say(f"    ends {NAME}")
        stack, failure = account.delete(stack)
        if stack["StackStatus"] != "DELETE_COMPLETE":
            raise Refusal(f"{NAME} cannot be deleted, and its instance goes on: {failure}")


def start(account, image):
    """The instance, started in a stack: only CloudFormation sets the tag by which a machine knows its stack."""
    place = outputs(account.stack(account.prefix + "pipelines"))
    if not place.get("TrialSecurityGroup"):
        raise Refusal("nothing says where: make deploy ENV=tools STACK=pipelines, with Vpc and Subnet in parameters/tools.json")
    values = {
        "ImageId": image["ImageId"],
        "InstanceType": TYPES[image["Architecture"]],
        "Subnet": place["Subnet"],
        "SecurityGroup": place["TrialSecurityGroup"],
        "Profile": place["TrialProfile"],
    }
    path, boot = ROOT / "scripts" / "pipelines" / "trial.yaml", ROOT / "userdata" / "first-boot.sh"
    parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]
    script = "ParameterKey=FirstBoot,ParameterValue=…"
    say(account.command("create-stack", StackName=NAME, TemplateBody=f"file://{path.relative_to(ROOT)}", Parameters=parameters) + f" {script}")
    parameters.append({"ParameterKey": "FirstBoot", "ParameterValue": boot.read_text()})
    tags = [{"Key": "Project", "Value": "salebell"}, {"Key": "Environment", "Value": "verify"}]
    made = account.cloudformation.create_stack(StackName=NAME, TemplateBody=path.read_text(), Parameters=parameters, Tags=tags)
    stack, failure = account.follow(made["StackId"])
    if stack["StackStatus"] != "CREATE_COMPLETE":
        raise Refusal(f"{image['ImageId']} does not start: {failure}")
    return outputs(stack)["Instance"]


def wait_for_agent(account, instance):
    """Waits until Systems Manager reaches the instance."""
    ec2, ssm, begun = account.client("ec2"), account.client("ssm"), time.monotonic()
    for _ in pauses():
        known = ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": [instance]}])["InstanceInformationList"]
        if any(one["PingStatus"] == "Online" for one in known):
            return time.monotonic() - begun
        state = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["State"]["Name"]
        late = time.monotonic() - begun > ONLINE_S
        if late or state not in ("pending", "running"):
            console = ec2.get_console_output(InstanceId=instance).get("Output", "")
            say("".join(f"    | {text}\n" for text in console.splitlines()[-40:]))
            why = f"it is {state}: it has given itself up" if not late else f"Systems Manager has not heard of it in {ONLINE_S} s"
            raise Refusal(f"{instance}: {why}. What its console says is above")


def check(account, instance):
    """Whether the checks on the instance pass; shows what they say."""
    ssm, parameters = account.client("ssm"), {"commands": [COMMAND], "executionTimeout": [str(CHECKS_S)]}
    words = ["aws", "ssm", "send-command", "--document-name", "AWS-RunShellScript", "--instance-ids", instance, "--parameters", COMMAND]
    say(f"$ {shlex.join(words)}")
    sent = ssm.send_command(InstanceIds=[instance], DocumentName="AWS-RunShellScript", Parameters=parameters, TimeoutSeconds=60)
    of = {"CommandId": sent["Command"]["CommandId"], "InstanceId": instance}
    begun, seen = time.monotonic(), {"Status": "Pending"}
    for _ in pauses():
        try:
            seen = ssm.get_command_invocation(**of)
        except exceptions.ClientError as error:
            # For a moment after it was sent, AWS does not know it.
            if error.response["Error"]["Code"] != "InvocationDoesNotExist":
                raise
        if seen["Status"] not in ("Pending", "InProgress", "Delayed", "Cancelling"):
            break
        if time.monotonic() - begun > CHECKS_S + 120:
            raise Refusal(f"{instance}: the checks are still {seen['Status']}")
    said = seen.get("StandardOutputContent", "") + seen.get("StandardErrorContent", "")
    for text in said.splitlines():
        say(f"    {text}", "red" if " FAILED " in text else None)
    return seen["Status"] == "Success"


def main(account, options):
    if account.environment != "tools":
        raise Refusal("images are tried in the tools account: ENV=tools")
    try:
        image = account.client("ec2").describe_images(ImageIds=[options.image])["Images"][0]
    except (exceptions.ClientError, exceptions.ParamValidationError, IndexError) as error:
        raise Refusal(f"IMAGE={options.image}: there is no such image ({error})") from None
    tags = {tag["Key"]: tag["Value"] for tag in image.get("Tags", [])}
    account.introduce(f"starts {options.image} ({image.get('Name')}, version {tags.get('Version')}), looks at it, and ends it")
    if image["State"] != "available" or image["Architecture"] not in TYPES:
        raise Refusal(f"{options.image} is {image['State']}, for {image['Architecture']}")
    clear(account)
    try:
        instance = start(account, image)
        say(f"    {instance} starts")
        seconds = wait_for_agent(account, instance)
        say(f"    Systems Manager reaches it, {seconds:.0f} s after its stack was made")
        good = check(account, instance)
    finally:
        clear(account)
    say(f"    {options.image} is {'good' if good else 'NOT GOOD'}", "green" if good else "red")
    return not good


if __name__ == "__main__":
    run(main, __doc__, image={"required": True, "help": "id of the image, such as ami-0123456789abcdef0"})
