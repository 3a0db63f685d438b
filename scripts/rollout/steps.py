"""The next step of a rollout: pure functions of a state, a goal and the current observations. Nothing here calls AWS.

A rollout goes through these steps, and each but the first two is one update of the stack (docs/decisions/0036-rollout.md):
preflight, migrate, up (the canary), serves (a tenth of the requests), rests (none), roll (the live group), clean.
"""

import dataclasses
import datetime
import re

# States in which a stack can be updated. In others a person must repair what has failed.
AT_REST = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
# Requests that a canary must have answered, by environment: fewer where there is little traffic. dev may have none at
# all.
MINIMUM = {"dev": 0, "stage": 20, "prod": 200}
# Limit for a canary to become healthy. An instance is ready within 5 minutes or abandoned by its hook; 6 minutes are
# too many for the image, too.
PATIENCE = datetime.timedelta(minutes=6)
# Additional time if there are too few requests: ten minutes more, twice.
MORE = datetime.timedelta(minutes=20)


@dataclasses.dataclass(frozen=True)
class Goal:
    """The goal of a rollout: the live group with this image and the settings of this hash."""

    image: str
    settings: str
    canary: bool = True
    gates: bool = True
    migrated: bool = False
    minutes: int = 10
    minimum: int = 0
    environment: str = "dev"


@dataclasses.dataclass(frozen=True)
class Seen:
    """The current state, all of it just read."""

    now: datetime.datetime  # by AWS's clock, like all times that it is compared with
    status: str  # of the stack
    since: datetime.datetime  # when the stack's last update began
    parameters: dict
    gates: dict  # the state of ServiceGate and CanaryGate; a gate that does not exist is missing
    image: dict  # State, Architecture, Version of the image of the goal; empty: there is none
    settings: str  # the hash of the settings as they are now
    refresh: str = ""  # the state of a refresh of the live group that has not ended
    suspended: tuple = ()  # processes of both groups
    desired: int = 1  # live instances that are wanted
    healthy: bool = False  # the canary's instance, in both target groups
    requests: int = 0  # that the canary has answered since the stack's last update began

    @property
    def weight(self):
        return self.parameters["CanaryWeight"]

    @property
    def canary(self):
        """The image and settings of the existing canary; None: there is none."""
        stands = self.parameters["CanaryInstances"] != "0" or self.weight != "0"
        return (self.parameters["CanaryImageId"], self.parameters["CanarySettingsHash"]) if stands else None

    def ours(self, goal):
        """Whether the existing canary is the goal's."""
        return self.canary == (goal.image, goal.settings)

    @property
    def live(self):
        return self.parameters["ImageId"], self.parameters["SettingsHash"]

    @property
    def classic(self):
        return self.parameters.get("Rollout") == "classic"


@dataclasses.dataclass(frozen=True)
class State:
    """The position of a rollout. A new one, and one that was killed, begin with `preflight`: the rest follows from what exists."""

    step: str = "preflight"
    # Reason of the cleanup; empty: everything is done.
    reason: str = ""
    few: bool = False
    tries: int = 0
    # The canary that is being removed.
    canary: tuple = dataclasses.field(default=None, compare=False)


# ---- What is to be done ----------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Wait:
    """Waits for an update that is in progress."""


@dataclasses.dataclass(frozen=True)
class Look:
    """Reads again in a moment."""

    says: str


@dataclasses.dataclass(frozen=True)
class Migrate:
    says: str = "the database gets the schema of the image"


@dataclasses.dataclass(frozen=True)
class Ask:
    question: str


@dataclasses.dataclass(frozen=True)
class Update:
    """An update of the stack: parameters, the gate that rolls it back, and how long CloudFormation monitors it afterwards."""

    says: str
    parameters: dict
    gate: str = ""
    minutes: int = 0


@dataclasses.dataclass(frozen=True)
class End:
    good: bool
    says: str


def drive(decide, state, look, act):
    """From `state` to the end: reads anew, decides, acts. Returns what was seen last, and the End."""
    answer = None
    while True:
        seen = look()
        state, action = decide(state, seen, answer)
        if isinstance(action, End):
            return seen, action
        said = act(action, seen, state)
        # Another person's update in between does not discard the answer.
        answer = answer if isinstance(action, Wait) else said


# ---- The table -------------------------------------------------------------------------------------------------------
def decide(state, goal, seen, answer=None):
    """The next state and the action. `answer` is the result of the last action, or None if it has none."""
    if moves(seen):
        return state, Wait()
    if seen.status not in AT_REST:
        return state, End(False, stuck(seen))
    return STEPS[state.step](state, goal, seen, answer)


def moves(seen):
    """REVIEW_IN_PROGRESS never ends by itself: a stack that was deleted meanwhile, and has only a change set now."""
    return seen.status.endswith("_IN_PROGRESS") and seen.status != "REVIEW_IN_PROGRESS"


def preflight(state, goal, seen, answer):
    if seen.live == (goal.image, goal.settings):
        if seen.canary:
            return clean("", goal, seen)
        return state, End(True, f"the live group has {goal.image} and these settings already")
    if goal.canary and seen.ours(goal):
        # An earlier run has left the canary. An obstacle to it leads to its removal.
        if seen.weight != "0":
            return served(State("serves"), goal, seen, None)
        if seen.status == "UPDATE_ROLLBACK_COMPLETE":
            return clean("the last update of the stack was taken back", goal, seen)
        return raised(State("up"), goal, seen, None)
    if problems := obstacles(goal, seen):
        return state, End(False, "nothing is changed:\n" + listed(problems))
    if goal.migrated or goal.image == seen.live[0]:
        return begin(goal, seen)
    return State("migrate"), Migrate()


def migrated(state, goal, seen, answer):
    if answer is not True:
        return state, End(False, f"the migration has failed, nothing else is changed: {answer}")
    # The migration takes minutes, so the obstacles are checked again.
    if problems := obstacles(goal, seen):
        return state, End(False, "migrated, and nothing else is changed:\n" + listed(problems))
    return begin(goal, seen)


def begin(goal, seen):
    if not goal.canary:
        return roll(goal, seen)
    wanted = {"CanaryImageId": goal.image, "CanarySettingsHash": goal.settings, "CanaryInstances": "1", "CanaryWeight": "0"}
    return State("up"), Update("the canary comes up, without requests", wanted)


def raised(state, goal, seen, answer):
    if not seen.ours(goal) or seen.weight != "0":
        return clean(f"the canary was not made{because(answer)}", goal, seen)
    if closed := shut(goal, seen):
        return clean(f"the canary has not come up: {closed}", goal, seen)
    if not seen.healthy:
        if seen.now - seen.since > PATIENCE:
            return clean("the canary is not healthy in both target groups after 6 minutes", goal, seen)
        return state, Look("waits for the canary to be healthy in both target groups")
    if problems := obstacles(goal, seen, "ours"):
        return clean("; ".join(problems), goal, seen)
    says = f"the canary serves a tenth of the requests, for {goal.minutes} minutes"
    return State("serves"), Update(says, {"CanaryWeight": "10"}, "CanaryGate", goal.minutes)


def served(state, goal, seen, answer):
    if not seen.ours(goal) or seen.weight != "10":
        return clean(f"the canary was taken back{because(answer)}", goal, seen)
    # Only this check sees the gate after CloudFormation's ten minutes.
    if closed := shut(goal, seen):
        return clean(f"the canary must get no more requests: {closed}", goal, seen)
    begun = seen.since + datetime.timedelta(minutes=goal.minutes)
    if seen.now < begun:
        # An earlier run had less time for it, or a person has set the weight, for whom CloudFormation does not wait.
        return state, Look(f"the canary serves a tenth of the requests, until {begun:%H:%M} UTC")
    few, until = seen.requests < goal.minimum, begun + MORE
    if few and seen.now < until:
        return state, Look(f"waits for requests: {seen.requests} of {goal.minimum}, until {until:%H:%M} UTC")
    return State("rests", few=few), Update(f"the canary rests, after {seen.requests} requests", {"CanaryWeight": "0"})


def rested(state, goal, seen, answer):
    if not seen.ours(goal) or seen.weight != "0":
        return clean(f"the canary's weight could not be put back{because(answer)}", goal, seen)
    if state.few:
        minutes = goal.minutes + int(MORE.total_seconds() / 60)
        return State("asked"), Ask(
            f"The canary had fewer than {goal.minimum} requests in {minutes} minutes, and no gate has closed. Roll the live group?"
        )
    return asked(state, goal, seen, True)


def asked(state, goal, seen, answer):
    if answer is not True:
        return clean(f"the canary had fewer than {goal.minimum} requests (MIN_REQUESTS= says how many suffice)", goal, seen)
    if not seen.ours(goal) or seen.weight != "0":
        return clean("somebody else has changed the canary", goal, seen)
    if problems := obstacles(goal, seen, "ours"):
        return clean("; ".join(problems), goal, seen)
    return roll(goal, seen)


def roll(goal, seen):
    wanted = {"ImageId": goal.image, "SettingsHash": goal.settings, "Gates": "on" if goal.gates else "off"}
    if not goal.canary:
        # While no rollout is in progress, the canary has the live group's values.
        wanted |= {"CanaryImageId": goal.image, "CanarySettingsHash": goal.settings}
    if seen.classic:
        wanted["InServiceDuringRoll"] = str(seen.desired)
    # A refresh bakes for 300 s by itself; a classic update is monitored for the same time.
    minutes = 5 if seen.classic and goal.gates else 0
    says = f"the live group gets {goal.image}, instance by instance"
    return State("roll"), Update(says, wanted, "ServiceGate" if goal.gates else "", minutes)


def rolled(state, goal, seen, answer):
    good = seen.live == (goal.image, goal.settings)
    return clean("" if good else f"the live group keeps {seen.live[0]}: CloudFormation has taken the roll back{because(answer)}", goal, seen)


def clean(reason, goal, seen, tries=0):
    """Removes the canary. It gets the live group's values again, because a stack cannot be updated once one of its images is gone."""
    if not seen.canary or reason and not seen.ours(goal):
        # Another canary: another rollout has removed this one's and started anew.
        return State("clean", reason), ended(reason, seen)
    says = "the canary goes" + f", because {reason}" * bool(reason)
    return State("clean", reason, tries=tries, canary=seen.canary), Update(says, without_canary(seen.live))


def without_canary(live):
    return {"CanaryInstances": "0", "CanaryWeight": "0", "CanaryImageId": live[0], "CanarySettingsHash": live[1]}


def cleaned(state, goal, seen, answer):
    if not seen.canary or seen.canary != state.canary:
        return state, ended(state.reason, seen)
    if state.tries < 2:
        return clean(state.reason, goal, seen, state.tries + 1)
    left = f"THE CANARY OF {seen.canary[0]} IS STILL THERE, with weight {seen.weight}{because(answer)}"
    return state, End(False, f"{left}\n    {state.reason}\n    Run `make rollback ENV={goal.environment}`, which takes it away")


def ended(reason, seen):
    says = reason or f"the live group has {seen.live[0]}, and the canary is gone"
    left = f"\n    the canary of {seen.canary[0]} that stands is somebody else's, and is left alone" if seen.canary else ""
    return End(not reason, says + left)


STEPS = dict(preflight=preflight, migrate=migrated, up=raised, serves=served, rests=rested, asked=asked, roll=rolled, clean=cleaned)


# ---- What may be in the way ------------------------------------------------------------------------------------------
def obstacles(goal, seen, canary=None):
    """All reasons against the next step. `canary`: it is ours, and may exist."""
    found = [closed] if (closed := shut(goal, seen)) else []
    if seen.canary and not canary:
        onwards = f"`make rollout ENV={goal.environment} IMAGE={seen.canary[0]}` goes on with it, "
        onwards = "the settings have changed since, " if seen.canary[1] != goal.settings else onwards
        found.append(f"a canary of {seen.canary[0]} stands: {onwards}`make rollback ENV={goal.environment}` ends it")
    found += image_problems(goal.image, seen)
    if seen.refresh:
        found.append(f"a refresh of the live group is {seen.refresh}")
    found += [f"{one} is suspended: aws autoscaling resume-processes" for one in seen.suspended]
    if seen.classic and seen.desired >= int(seen.parameters.get("MaxSize", seen.desired + 1)):
        found.append(f"a classic roll needs one more instance, and the group has MaxSize ({seen.desired}) already")
    if seen.settings != goal.settings:
        found.append("settings of instances have changed meanwhile")
    return found


def shut(goal, seen):
    """Which gates are not OK."""
    names = ["ServiceGate", "CanaryGate"] if goal.gates else ["CanaryGate"] * goal.canary
    return ", ".join(f"{name} is {seen.gates.get(name, 'not there')}" for name in names if seen.gates.get(name) != "OK")


def architecture(instance_type):
    """Graviton types have a g after the number of the generation."""
    return "arm64" if re.match(r"[a-z]+\d+g", instance_type) else "x86_64"


def image_problems(image, seen):
    if not seen.image:
        return [f"there is no image {image} in this account and region"]
    found, wanted = [], architecture(seen.parameters["InstanceType"])
    if seen.image["State"] != "available":
        found.append(f"{image} is {seen.image['State']}, not available")
    if seen.image["Architecture"] != wanted:
        found.append(f"{image} is for {seen.image['Architecture']}, and {seen.parameters['InstanceType']} is {wanted}")
    if not seen.image.get("Version"):
        found.append(f"{image} has no tag Version and no commit in its name: is it an image of ours?")
    return found


def stuck(seen):
    left = f", with {seen.weight} % of the requests on the canary" if seen.weight != "0" else ""
    return f"the stack is in {seen.status}{left}: a person must mend what has failed (`make status`)"


def listed(problems):
    return "\n".join(f"    - {one}" for one in problems)


def because(answer):
    return f": {answer}" if isinstance(answer, str) else ""
