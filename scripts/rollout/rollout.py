"""Rolls out an image: first to a canary with a tenth of the requests, then to the live group. Each step is one update of the
stack of the service, whose result is read again before the next step (steps.py). It can be killed at any time."""

import contextlib
import dataclasses
import re
import time

import back
import migration
import settings
import steps
from changes import ChangeSet
from cloud import FAILURES, Refusal, agree, in_progress, outputs, run, say
from seen import parameters_of, patiently, world


def update(of, action, what, seen):
    """One update of the stack; True if it succeeded, otherwise the reason. The resulting state is read anew."""
    try:
        return change(of, action, what, seen)
    except (Refusal, *FAILURES) as error:
        # Also an error of AWS in between: to exit here would leave the canary with its requests.
        say(f"    {error}".split("\n    Mend that")[0], "red")
        return str(error).split("\n    Mend that")[0]


def change(of, action, what, seen):
    stack, _ = of.stack()
    triggers = []
    if action.gate:
        alarm = of.gates(outputs(stack)).get(action.gate)
        if not alarm:
            return f"{action.gate} is not there"
        kind = "AWS::CloudWatch::CompositeAlarm" if "AlarmRule" in alarm else "AWS::CloudWatch::Alarm"
        triggers = [{"Arn": alarm["AlarmArn"], "Type": kind}]
    there = [one["ParameterKey"] for one in stack["Parameters"]]
    if missing := sorted(action.parameters.keys() - set(there)):
        return f"the stack has no parameter {', '.join(missing)}"
    change_set = ChangeSet(
        of.account,
        "service",
        stack,
        [
            {"ParameterKey": key, "ParameterValue": action.parameters[key]} if key in action.parameters
            else {"ParameterKey": key, "UsePreviousValue": True}
            for key in there
        ],  # fmt: skip
        {one["Key"]: one["Value"] for one in stack.get("Tags", [])},
        what=what,
        # A rollout changes parameters. Only a deploy changes templates.
        UsePreviousTemplate=True,
        RollbackConfiguration={"RollbackTriggers": triggers, "MonitoringTimeInMinutes": action.minutes},
    )
    if not change_set.create():
        return True
    change_set.show()
    # If the stack changes from now on, CloudFormation refuses the change set.
    if parameters_of(of.stack()[0]) != seen.parameters:
        change_set.discard()
        return "somebody else has changed the stack meanwhile"
    if replaced := [one["LogicalResourceId"] for one in change_set.changes if one.get("Replacement") == "True"]:
        change_set.discard()
        return f"{', '.join(replaced)} would be replaced"
    change_set.execute(of.progress())
    return True


def wait(of, seen):
    say(f"==> waits for {of.name}, which is in {seen.status}")
    try:
        stack, _ = of.stack()
        of.account.follow(stack["StackId"], None, of.progress())
    except FAILURES as error:
        # The next read retries.
        say(f"    {error}", "yellow")


class Act:
    """Performs the decided action, and returns the answer for the next decision."""

    def __init__(self, of, command, yes):
        self.of, self.command, self.yes, self.waits, self.changed = of, command, yes, [], False

    def __call__(self, action, seen, step):
        if isinstance(action, steps.Wait):
            return wait(self.of, seen)
        if isinstance(action, steps.Look):
            if action.says not in self.waits:
                say(f"    {action.says}")
            self.waits.append(action.says)
            return time.sleep(min(0.1 * len(self.waits), 10))
        if isinstance(action, steps.Ask):
            with contextlib.suppress(Refusal):
                return not self.yes and (agree(action.question) or True)
            return False
        say(f"==> {seen.now:%H:%M:%S} {action.says}")
        if isinstance(action, steps.Migrate):
            return migration.migrate(self.of.account, seen.image)
        self.changed = True
        return update(self.of, action, f"{self.command}-{step}", seen)


def finish(account, end, seen, otherwise):
    """Prints the result."""
    say(f"==> {seen.now:%H:%M:%S} {end.says}", "green" if end.good else None)
    if not end.good:
        raise Refusal(f"{otherwise}; `make status ENV={account.environment}` says what stands")
    say(f"next: make status ENV={account.environment}")


def main(account, options):
    goal = steps.Goal(
        image=options.image,
        settings=settings.settings_hash(account),
        canary=options.canary != "0",
        gates=options.gates != "off",
        migrated=options.migrated,
        minutes=options.minutes,
        minimum=steps.MINIMUM.get(account.environment, 0) if options.min_requests is None else options.min_requests,
        environment=account.environment,
    )
    account.introduce(f"rolls out {goal.image}, {plan(goal)}")
    if not re.fullmatch("ami-[0-9a-f]+", goal.image):
        raise Refusal(f"IMAGE= must be the id of an image, such as ami-0c1f0b5d7e2a94863, not {goal.image!r}")
    of = world(account)
    account.subject, account.more = of.name, canary_left(f"    make rollback ENV={account.environment} ends it, and takes the canary away")
    while in_progress(of.stack()[0]):
        wait(of, of.look(goal.image))
    seen = of.look(goal.image)
    if seen.gates.get("ServiceGate") != "OK" and goal.gates and went_before(of, goal.image, seen):
        # As in a pipeline's stage that is rolled back because of this very gate.
        goal = dataclasses.replace(goal, canary=False, gates=False, migrated=True)
        say(f"    ServiceGate is closed, and the live group has had {goal.image} before: goes back to it, {plan(goal)}", "yellow")
    _, first = steps.decide(steps.State(), goal, seen)
    if not isinstance(first, steps.End):
        begin(account, goal, first, seen, options.yes)
    act = Act(of, "rollout", options.yes)
    try:
        seen, end = steps.drive(
            lambda state, seen, answer: steps.decide(state, goal, seen, answer),
            steps.State(),
            lambda: patiently(lambda: of.look(goal.image)),
            lambda action, seen, state: act(action, seen, state.step),
        )
    except FAILURES:
        if seen.canary or act.changed:
            onwards = f"make rollout ENV={account.environment} IMAGE={goal.image} goes on, make rollback ENV={account.environment} ends it"
            say(f"\n! NOBODY LOOKS AT THE CANARY NOW, and a tenth of the requests may be its: {onwards}", "red")
        raise
    finish(account, end, seen, f"{goal.image} is not rolled out")


def canary_left(way_out=""):
    """What is said of the canary when a command is stopped (stopping.py), and how to end a rollout."""

    def lines(stack, runs):
        now = parameters_of(stack)
        if now["CanaryWeight"] != "0":
            when = " once CloudFormation has ended this update" if runs else ""
            yield f"    ! A TENTH OF THE REQUESTS GOES TO THE CANARY of {now['CanaryImageId']}, and NOBODY LOOKS AT IT{when}", "red"
        elif now["CanaryInstances"] != "0":
            yield f"    the canary of {now['CanaryImageId']} stands, without requests", "yellow"
        if way_out and (runs or now["CanaryInstances"] != "0"):
            yield (way_out,)

    return lines


def went_before(of, image, seen):
    """Whether the image is one that was there before that of the live group."""
    stack, _ = of.stack()
    events = of.account.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=stack["StackId"])
    return image != seen.live[0] and image in back.had(back.history(events))


def plan(goal):
    """The steps in words."""
    migration_first = "" if goal.migrated else "the database is migrated first, "
    canary = f"a canary gets a tenth of the requests for {goal.minutes} minutes" if goal.canary else "without a canary"
    return migration_first + canary + ("" if goal.gates else ", WITHOUT THE GATES")


def begin(account, goal, action, seen, yes):
    """Prints the current state and the planned steps, and asks for confirmation."""
    version = f" (version {seen.image['Version']})" if seen.image.get("Version") else ""
    say(f"    the live group has {seen.live[0]} on {seen.desired} instances, and is to have {goal.image}{version}")
    if seen.canary:
        say(f"    the canary of {seen.canary[0]} stands, with weight {seen.weight}", "yellow")
    if isinstance(action, steps.Migrate):
        migration.request(account, seen.image)
    say(f"    first: {action.says}")
    if not yes:
        agree(f"roll out to account {account.number} ({account.region})?")


def minutes(text):
    if not 1 <= int(text) <= 180:
        raise ValueError(text)
    return int(text)


if __name__ == "__main__":
    run(
        main,
        __doc__,
        image={"required": True, "help": "id of the image; with that of the live group, only changed settings are rolled out"},
        canary={"default": "1", "choices": ["0", "1"], "help": "0: no canary, in 4 minutes instead of 20"},
        gates={"default": "on", "choices": ["on", "off"], "help": "off: ServiceGate does not stop the roll; for a version that repairs"},
        migrated="the database has the schema already",
        minutes={"type": minutes, "default": 10, "help": "how long the canary serves"},
        min_requests={"type": int, "help": "how many requests the canary must have received"},
        yes="does not ask; too few requests end the rollout",
    )
