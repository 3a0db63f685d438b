"""The next step of a rollback: pure functions, as in steps.py. Also the history of the stack, which names the previous image."""

import dataclasses
import datetime
import re

import steps
from steps import AT_REST, End, Update, because, listed

# Time without events after which the cancelled update is no longer waited for.
STILL = datetime.timedelta(minutes=5)
UNKNOWN = "the events of the stack (of 90 days) do not say which image was there before"
# States of a refresh that can be stopped.
RUNS = ("Pending", "InProgress", "Baking")
OPERATION = re.compile(r"(deploy|rollout|rollback)-.*-(ami-[0-9a-f]+)")


# ---- History ---------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Change:
    """An update of the stack that gave the live group an image."""

    when: datetime.datetime
    command: str
    image: str
    ended: str  # the status of the stack

    @property
    def good(self):
        return self.ended in ("CREATE_COMPLETE", "UPDATE_COMPLETE")

    def __str__(self):
        became = {"UPDATE_ROLLBACK_COMPLETE": "taken back", "": "under way"}.get(self.ended, "" if self.good else self.ended)
        return f"{self.when:%Y-%m-%d %H:%M} {self.image} by make {self.command}{f' ({became})' if became else ''}"


def history(events):
    """The changes of the image, the oldest first, by the stack's events (the newest first, as AWS gives them). Each event of an
    operation has its token, and ours name the image (changes.py). The events of a cancel have another token."""
    changes, begun = [], None
    for event in reversed(list(events)):
        if event["LogicalResourceId"] != event["StackName"]:
            continue
        if begun is None and (found := OPERATION.fullmatch(event.get("ClientRequestToken", ""))):
            begun = Change(event["Timestamp"], found[1], found[2], "")
        if begun and not event["ResourceStatus"].endswith("_IN_PROGRESS"):
            changes.append(dataclasses.replace(begun, ended=event["ResourceStatus"]))
            begun = None
    return changes + ([begun] if begun else [])


def runs(wanted, events):
    """Whether a rollback to the wanted image is running already. To cancel it would bring the bad image back."""
    token = next((event.get("ClientRequestToken", "") for event in events), "")
    return token.startswith("rollback-") and token.endswith(wanted)


def had(changes):
    """The images that the live group has had, each once. A change to one of them is a rollback."""
    images = []
    for change in changes:
        if change.good:
            images = images[: images.index(change.image)] if change.image in images else images
            images.append(change.image)
    return images


def target(wanted, changes, seen):
    """The image to roll back to, or None if the live group stays as it is, and why."""
    live, last, images = seen.live[0], changes[-1] if changes else None, had(changes)
    if wanted:
        return wanted, "as IMAGE= says"
    if seen.canary and seen.canary != seen.live:
        return None, f"the rollout of {seen.canary[0]} has not reached the live group"
    if last and last.command == "rollback" and last.image != live:
        return last.image, "to which the last rollback has not come"
    if last and not last.good and images[-1:] == [live]:
        return None, f"{last.image} was taken back already, and {live} is what was there before it"
    if last and last.command == "rollback" and last.image == live:
        return None, f"it has gone back to {live} already"
    if images and images[-1] != live:
        return images[-1], "which is the last that make gave it, and kept"
    if len(images) > 1:
        return images[-2], f"which was there before {live}"
    return None, UNKNOWN


# ---- What to do ------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Call:
    """A call to a service, about the stack or the live group."""

    says: str
    operation: str


@dataclasses.dataclass(frozen=True)
class Still:
    """The state of an update that is to be ended."""

    status: str
    quiet: datetime.timedelta  # since the last event of the stack, and since the cancel
    refresh: str = ""  # the state of a refresh that began before the stack went back, while it has not ended
    cancelled: bool = False  # the cancel was called
    refused: bool = False  # RollbackInstanceRefresh was


def stop(still):
    """The call that ends the running operation: its name, or None to wait."""
    if still.status == "UPDATE_IN_PROGRESS" and not still.cancelled:
        return "cancel_update_stack"
    # Never the refresh of the stack's own rollback, which would move forward again.
    if still.refresh in RUNS and still.quiet > STILL:
        return "cancel_instance_refresh" if still.refused else "rollback_instance_refresh"
    if still.refresh == "RollbackInProgress" and still.quiet > 2 * STILL:
        return "cancel_instance_refresh"
    return None


def decide(step, image, seen, answer=None):
    """The next step of a rollback, and what is to be done: `begin`, then `clean` or `back`. `image` is None where the live
    group stays as it is."""
    if steps.moves(seen):
        return step, steps.Wait()
    if seen.status == "UPDATE_ROLLBACK_FAILED" and step == "begin":
        return "went on", Call("the stack could not go back: once more", "continue_update_rollback")
    if seen.status not in AT_REST:
        return step, End(False, steps.stuck(seen))
    if seen.refresh in RUNS:
        if isinstance(answer, str):
            return step, End(False, f"a refresh of the live group is {seen.refresh}{because(answer)}")
        return step, Call(f"a refresh of the live group is {seen.refresh}: ends it", "cancel_instance_refresh")
    if seen.refresh:
        return step, steps.Look(f"waits for the refresh that is {seen.refresh}")
    if image in (None, seen.live[0]):
        if not seen.canary:
            return step, End(True, f"the live group has {seen.live[0]}, and there is no canary")
        if step in ("clean", "back"):
            return step, End(False, f"THE CANARY OF {seen.canary[0]} IS STILL THERE{because(answer)}")
        return "clean", Update("the canary goes, and the live group stays as it is", steps.without_canary(seen.live))
    if step in ("clean", "back"):
        return step, End(False, f"THE LIVE GROUP STILL HAS {seen.live[0]}{because(answer)}")
    problems = steps.image_problems(image, seen)
    problems += [f"{one} is suspended: aws autoscaling resume-processes" for one in seen.suspended]
    if problems:
        return step, End(False, "nothing is changed:\n" + listed(problems))
    wanted = {"ImageId": image, "SettingsHash": seen.settings, "Gates": "off", **steps.without_canary((image, seen.settings))}
    if seen.classic:
        wanted["InServiceDuringRoll"] = str(min(seen.desired, int(seen.parameters["MaxSize"]) - 1))
    return "back", Update(f"the live group goes back to {image}, without gates and without a canary", wanted)
