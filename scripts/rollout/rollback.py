"""Rolls the live group back to its previous image, with gates off and without a canary. Running updates are cancelled first: a
rollout that has not reached the live group is only ended. It can be killed at any time."""

import re

import back
import botocore.exceptions
import rollout
import steps
from cloud import Refusal, agree, in_progress, outputs, run, say
from seen import UNDER_WAY, patiently, world


class Stop:
    """Ends the running update, and follows it until the stack is at rest."""

    def __init__(self, of):
        self.of, self.cancelled, self.refused, self.progress = of, None, False, of.progress()

    def __call__(self, _):
        """Called between two polls of the events."""
        self.progress(_)
        stack, now = self.of.stack()
        if not in_progress(stack):
            return
        if operation := back.stop(self.still(stack, now)):
            refused = call(self.of, operation, outputs(stack))
            if operation == "cancel_update_stack":
                self.cancelled = now
            elif operation == "rollback_instance_refresh":
                self.refused = bool(refused)

    def still(self, stack, now):
        events = list(self.of.account.events(stack["StackId"], None))
        begun = [one["Timestamp"] for one in events if one["ResourceStatus"] == "UPDATE_ROLLBACK_IN_PROGRESS"]
        refresh = self.of.refresh(outputs(stack))
        under_way = refresh.get("Status") in UNDER_WAY
        forward = under_way and (not begun or refresh["StartTime"] < begun[0])
        last = max([one["Timestamp"] for one in events] + [self.cancelled or stack["CreationTime"]])
        return back.Still(
            stack["StackStatus"], now - last, refresh["Status"] if forward else "", self.cancelled is not None, self.refused
        )


def call(of, operation, made):
    """Makes a call that may come too late, and returns why it was refused."""
    if operation.endswith("_refresh"):
        client, service, about = of.account.client("autoscaling"), "autoscaling", {"AutoScalingGroupName": made["LiveGroup"]}
    else:
        client, service, about = of.account.cloudformation, "cloudformation", {"StackName": of.name}
    option, value = [*about.items()][0]
    flag = "--stack-name" if option == "StackName" else "--auto-scaling-group-name"
    say(f"$ aws {service} {operation.replace('_', '-')} {flag} {value} --region {of.account.region}")
    try:
        getattr(client, operation)(**about)
    except botocore.exceptions.ClientError as error:
        if "AccessDenied" in error.response["Error"]["Code"]:
            raise
        say(f"    {error}", "yellow")
        return str(error)


def main(account, options):
    account.introduce("takes the live group back to the image before, and takes a canary away")
    if options.image and not re.fullmatch("ami-[0-9a-f]+", options.image):
        raise Refusal(f"IMAGE= must be the id of an image, such as ami-0c1f0b5d7e2a94863, not {options.image!r}")
    of = world(account)
    account.subject, account.more = of.name, rollout.canary_left()
    stack, _ = of.stack()
    events = list(account.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=stack["StackId"]))
    changes = back.history(events)
    for change in changes[-5:]:
        say(f"    {change}")
    if in_progress(stack) and back.runs(options.image, events):
        say("    a rollback runs already: waits for it (IMAGE=ami-… with another image than its own cancels it)", "yellow")
        rollout.wait(of, of.look(stack_image(stack)))
        return main(account, options)
    if in_progress(stack):
        say(f"    {of.name} is in {stack['StackStatus']}: what runs is cancelled first", "yellow")
        if not options.yes:
            agree("cancel it?")
        say("==> cancels what runs")
        account.follow(stack["StackId"], None, Stop(of))
        return main(account, options)
    seen = of.look(options.image or stack_image(stack))
    image, why = back.target(options.image, changes, seen)
    if why == back.UNKNOWN:
        raise Refusal(f"{why}; which is it (IMAGE=ami-…)? The versions of the launch template:\n{versions(of, outputs(stack))}")
    stays = f"the live group stays at {seen.live[0]}, since {why}"
    say(f"    the live group has {seen.live[0]}, and gets {image}, {why}" if image else f"    {stays}", "yellow")
    if not image and seen.canary is None and seen.status != "UPDATE_ROLLBACK_FAILED":
        older = f"To go further back: make rollback ENV={account.environment} IMAGE=ami-…"
        return say(f"    there is nothing to take back. {older}\nnext: make status ENV={account.environment}")
    if not options.yes:
        what = "the live group" if image else "the canary" if seen.canary else "the stack"
        agree(f"take {what} back in account {account.number} ({account.region})?")
    seen, end = steps.drive(
        lambda step, seen, answer: back.decide(step, image, seen, answer),
        "begin",
        lambda: patiently(lambda: of.look(image or seen.live[0])),
        Act(of, "rollback", options.yes),
    )
    if seen.parameters["Gates"] == "off":
        say("    gates are off: the next rollout or deploy puts them on again", "yellow")
    rollout.finish(account, end, seen, "not taken back")


class Act(rollout.Act):
    """The service, with the calls that only a rollback makes."""

    def __call__(self, action, seen, step):
        if not isinstance(action, back.Call):
            return super().__call__(action, seen, step)
        say(f"==> {seen.now:%H:%M:%S} {action.says}")
        return call(self.of, action.operation, outputs(self.of.stack()[0]))


def versions(of, made):
    """The images that the live group's launch template has had, the newest first."""
    client = of.account.client("ec2")
    found = client.describe_launch_template_versions(LaunchTemplateId=made["LaunchTemplateId"], MaxResults=20)
    lines = (
        f"    {one['CreateTime']:%Y-%m-%d %H:%M} version {one['VersionNumber']}: {one['LaunchTemplateData'].get('ImageId')}"
        for one in found["LaunchTemplateVersions"]
    )
    return "\n".join(lines)


def stack_image(stack):
    return next(one["ParameterValue"] for one in stack["Parameters"] if one["ParameterKey"] == "ImageId")


if __name__ == "__main__":
    run(main, __doc__, image={"default": "", "help": "image to go back to, if not the previous one"}, yes="does not ask")
