"""What a rollout decides: each row of the table of docs/decisions/0036-rollout.md, each "else" of it, and random events. The calls
are in test_rollout_commands.py."""

import dataclasses
import datetime

import hypothesis
import pytest
from hypothesis import strategies

import emulator  # noqa: F401, which puts the commands on the path
import steps
from rollouts import BAD, GOOD, OLD
from steps import Ask, End, Goal, Look, Migrate, Seen, State, Update, Wait

NOON = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
GOAL = Goal(GOOD, "new", minimum=200, environment="prod")
REST = {
    "ImageId": OLD, "SettingsHash": "old", "CanaryImageId": OLD, "CanarySettingsHash": "old", "CanaryInstances": "0",
    "CanaryWeight": "0", "Gates": "on", "Rollout": "refresh", "InstanceType": "t4g.medium", "MaxSize": "8",
}  # fmt: skip
CANARY = {"CanaryImageId": GOOD, "CanarySettingsHash": "new", "CanaryInstances": "1"}
SERVING, ROLLED = {**CANARY, "CanaryWeight": "10"}, {"ImageId": GOOD, "SettingsHash": "new"}
OPEN = {"ServiceGate": "OK", "CanaryGate": "OK"}
IMAGE = {"State": "available", "Architecture": "arm64", "Version": "0123abc", "Name": "salebell-arm64-0123abc"}


def seen(parameters=(), minutes=0, **more):
    """A stack at rest, whose last update began some minutes ago."""
    known = dict(
        now=NOON + datetime.timedelta(minutes=minutes), status="UPDATE_COMPLETE", since=NOON, parameters={**REST, **dict(parameters)},
        gates=OPEN, image=IMAGE, settings="new", desired=4,
    )  # fmt: skip
    return Seen(**{**known, **more})


def decide(step, what, answer=None, goal=GOAL, **state):
    return steps.decide(State(step, **state), goal, what, answer)


def cleans(step, what, answer=None, **state):
    """That it goes on with row 6, and why."""
    state, action = decide(step, what, answer, **state)
    assert isinstance(action, Update), action
    assert action.parameters == {"CanaryInstances": "0", "CanaryWeight": "0", "CanaryImageId": OLD, "CanarySettingsHash": "old"}
    assert (state.step, action.gate, action.minutes) == ("clean", "", 0)
    return state.reason


def stops(step, what, answer=None, goal=GOAL):
    """That nothing is changed, and why."""
    _, action = decide(step, what, answer, goal)
    assert isinstance(action, End) and not action.good, action
    return action.says


# ---- Row by row ------------------------------------------------------------------------------------------------------
def test_0_preflight_begins_with_the_migration():
    state, action = decide("preflight", seen())
    assert (state.step, type(action)) == ("migrate", Migrate)


@pytest.mark.parametrize(
    "what, told",
    [
        (seen(status="UPDATE_ROLLBACK_FAILED"), "a person must mend"),
        (seen(status="UPDATE_FAILED"), "a person must mend"),
        (seen(gates={**OPEN, "ServiceGate": "ALARM"}), "ServiceGate is ALARM"),
        (seen(gates={**OPEN, "CanaryGate": "ALARM"}), "CanaryGate is ALARM"),
        (seen(gates={**OPEN, "CanaryGate": "INSUFFICIENT_DATA"}), "CanaryGate is INSUFFICIENT_DATA"),
        (seen(gates={"CanaryGate": "OK"}), "ServiceGate is not there"),
        (seen(image={}), f"there is no image {GOOD}"),
        (seen(image={**IMAGE, "State": "pending"}), "is pending, not available"),
        (seen(image={**IMAGE, "Architecture": "x86_64"}), "is for x86_64, and t4g.medium is arm64"),
        (seen({"InstanceType": "t3.medium"}), "is for arm64, and t3.medium is x86_64"),
        (seen(image={**IMAGE, "Version": ""}), "has no tag Version"),
        (seen(refresh="InProgress"), "a refresh of the live group is InProgress"),
        (seen(suspended=("Launch",)), "Launch is suspended: aws autoscaling resume-processes"),
        (seen({**CANARY, "CanaryImageId": BAD}), f"a canary of {BAD} stands: `make rollout ENV=prod IMAGE={BAD}` goes on with it"),
        (seen({**CANARY, "CanarySettingsHash": "other"}), "a canary of"),
        (seen({"Rollout": "classic"}, desired=8), "MaxSize (8) already"),
        (seen(settings="newer"), "settings of instances have changed meanwhile"),
    ],
)
def test_0_else_nothing_is_changed(what, told):
    assert told in stops("preflight", what)


def test_0_all_that_is_in_the_way_is_said_at_once():
    said = stops("preflight", seen(gates={}, refresh="Pending", suspended=("AZRebalance",), image={}))
    assert said.count("\n    - ") == 4


def test_0_waits_for_an_update_that_runs():
    for status in ("UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"):
        for step in steps.STEPS:
            state, action = decide(step, seen(status=status))
            assert (state.step, action) == (step, Wait())


def test_1_the_canary_comes_up_without_requests_after_the_migration():
    state, action = decide("migrate", seen(), True)
    assert state.step == "up"
    assert action.parameters == {**CANARY, "CanaryWeight": "0"} and (action.gate, action.minutes) == ("", 0)


def test_1_else_nothing_is_changed():
    assert "the migration has failed, nothing else is changed: FAILED" in stops("migrate", seen(), "FAILED")
    # It has taken minutes, in which the world may have changed.
    assert "ServiceGate is ALARM" in stops("migrate", seen(gates={**OPEN, "ServiceGate": "ALARM"}), True)
    assert "stands" in stops("migrate", seen(CANARY), True)


def test_1_is_left_out_where_the_schema_is_there():
    for what, goal in ((seen(), dataclasses.replace(GOAL, migrated=True)), (seen(), dataclasses.replace(GOAL, image=OLD))):
        state, action = decide("preflight", what, goal=goal)
        assert state.step == "up" and action.parameters["CanaryInstances"] == "1"


def test_2_a_healthy_canary_gets_a_tenth_of_the_requests():
    state, action = decide("up", seen(CANARY, healthy=True))
    assert (state.step, action.parameters, action.gate, action.minutes) == ("serves", {"CanaryWeight": "10"}, "CanaryGate", 10)


def test_2_waits_six_minutes_for_its_health():
    state, action = decide("up", seen(CANARY, minutes=6))
    assert state.step == "up" and isinstance(action, Look)
    assert "not healthy in both target groups after 6 minutes" in cleans("up", seen(CANARY, minutes=6.1))


def test_2_else_it_is_cleaned_up():
    assert "CanaryGate is ALARM" in cleans("up", seen(CANARY, gates={**OPEN, "CanaryGate": "ALARM"}))
    assert "a refresh" in cleans("up", seen(CANARY, healthy=True, refresh="InProgress"))
    # The update itself has failed, and nothing is left of it.
    _, action = decide("up", seen(status="UPDATE_ROLLBACK_COMPLETE"), "because of CanaryGroup")
    assert action == End(False, "the canary was not made: because of CanaryGroup")


def test_3_the_canary_rests_when_its_time_is_over():
    state, action = decide("serves", seen(SERVING, minutes=10, requests=200))
    assert (state.step, state.few, action.parameters) == ("rests", False, {"CanaryWeight": "0"})
    assert (action.gate, action.minutes) == ("", 0)


def test_3_fewer_requests_get_ten_minutes_more_twice_and_then_a_person_decides():
    for minutes in (10, 20, 29.9):
        state, action = decide("serves", seen(SERVING, minutes=minutes, requests=199))
        assert state.step == "serves" and "199 of 200, until 12:30 UTC" in action.says
    state, action = decide("serves", seen(SERVING, minutes=30, requests=199))
    # Nobody looks at the gate while a person thinks, so first the requests go.
    assert (state.step, state.few, action.parameters) == ("rests", True, {"CanaryWeight": "0"})
    state, action = decide("rests", seen(CANARY), few=True)
    assert state.step == "asked" and isinstance(action, Ask) and "fewer than 200 requests in 30 minutes" in action.question
    assert decide("asked", seen(CANARY), True)[1].parameters["ImageId"] == GOOD
    assert "MIN_REQUESTS" in cleans("asked", seen(CANARY), False)
    assert "somebody else" in decide("asked", seen(), True)[1].says


def test_3_it_serves_for_the_minutes_that_are_wanted_and_waits_for_as_many_requests_after_them():
    goal = dataclasses.replace(GOAL, minutes=60, minimum=0)
    # An earlier run wanted ten, or a person has set the weight, for whom CloudFormation does not wait.
    state, action = decide("preflight", seen(SERVING, minutes=59, requests=500), goal=goal)
    assert state.step == "serves" and "until 13:00 UTC" in action.says
    assert decide("preflight", seen(SERVING, minutes=60, requests=500), goal=goal)[0].step == "rests"
    goal = dataclasses.replace(goal, minimum=200)
    assert "until 13:20 UTC" in decide("serves", seen(SERVING, minutes=79), goal=goal)[1].says
    assert "in 80 minutes" in decide("rests", seen(CANARY), goal=goal, few=True)[1].question


def test_3_else_it_is_cleaned_up():
    taken_back = seen(CANARY, status="UPDATE_ROLLBACK_COMPLETE")
    assert "the canary was taken back: CanaryGate" in cleans("serves", taken_back, "CanaryGate")
    # In the minutes after CloudFormation's ten nobody else looks at the gate.
    assert "CanaryGate is ALARM" in cleans("serves", seen(SERVING, minutes=12, requests=3, gates={**OPEN, "CanaryGate": "ALARM"}))


def test_4_the_live_group_is_rolled_when_the_canary_rests():
    state, action = decide("rests", seen(CANARY))
    assert (state.step, action.gate, action.minutes) == ("roll", "ServiceGate", 0)
    assert action.parameters == {**ROLLED, "Gates": "on"}


def test_4_else_it_is_cleaned_up():
    failed = seen(SERVING, status="UPDATE_ROLLBACK_COMPLETE")
    assert "weight could not be put back" in cleans("rests", failed, "CREATE_FAILED")
    for more in ({"gates": {**OPEN, "ServiceGate": "ALARM"}}, {"refresh": "Pending"}, {"suspended": ("Launch",)}, {"settings": "newer"}):
        assert cleans("rests", seen(CANARY, **more))


def test_5_the_canary_goes_when_the_live_group_is_rolled():
    state, action = decide("roll", seen({**CANARY, **ROLLED}))
    assert state == State("clean", "") and action.parameters["CanaryInstances"] == "0"
    assert action.parameters["CanaryImageId"] == GOOD


def test_5_else_it_is_cleaned_up():
    reason = cleans("roll", seen(CANARY, status="UPDATE_ROLLBACK_COMPLETE"), "because of LiveGroup")
    assert reason == f"the live group keeps {OLD}: CloudFormation has taken the roll back: because of LiveGroup"


def test_6_ends_well_or_with_the_reason():
    assert decide("clean", seen(ROLLED), True)[1].good
    assert decide("clean", seen(), True, reason="it was bad")[1] == End(False, "it was bad")


def test_6_else_it_is_said_loudly():
    for tries in (0, 1):
        assert "it was bad" in cleans("clean", seen(SERVING), "refused", reason="it was bad", tries=tries, canary=(GOOD, "new"))
    state, action = decide("clean", seen(SERVING), "refused", reason="it was bad", tries=2, canary=(GOOD, "new"))
    assert not action.good and action.says.startswith(f"THE CANARY OF {GOOD} IS STILL THERE, with weight 10: refused")
    assert "make rollback ENV=prod" in action.says


# ---- What else an operator may want ----------------------------------------------------------------------------------
def test_without_a_canary_the_live_group_is_rolled_after_the_migration():
    goal = dataclasses.replace(GOAL, canary=False)
    state, action = decide("migrate", seen(), True, goal)
    assert state.step == "roll" and action.gate == "ServiceGate"
    assert action.parameters == {**ROLLED, "Gates": "on", "CanaryImageId": GOOD, "CanarySettingsHash": "new"}
    assert decide("roll", seen({**ROLLED, "CanaryImageId": GOOD}), True, goal)[1].good
    assert "stands" in stops("preflight", seen(CANARY), goal=goal)


def test_without_gates_only_the_canarys_is_looked_at():
    goal = dataclasses.replace(GOAL, gates=False)
    closed = {**OPEN, "ServiceGate": "ALARM"}
    assert isinstance(decide("preflight", seen(gates=closed), goal=goal)[1], Migrate)
    state, action = decide("rests", seen(CANARY, gates=closed), goal=goal)
    assert (action.parameters["Gates"], action.gate, action.minutes) == ("off", "", 0)


def test_a_classic_roll_keeps_the_present_number_and_is_looked_at_for_five_minutes():
    state, action = decide("rests", seen({**CANARY, "Rollout": "classic"}, desired=3))
    assert action.parameters["InServiceDuringRoll"] == "3" and (action.gate, action.minutes) == ("ServiceGate", 5)


def test_settings_alone_are_rolled_out_with_the_image_that_is_there():
    goal = dataclasses.replace(GOAL, image=OLD)
    state, action = decide("preflight", seen(), goal=goal)
    assert action.parameters["CanarySettingsHash"] == "new" and action.parameters["CanaryImageId"] == OLD
    assert decide("preflight", seen(settings="old"), goal=dataclasses.replace(goal, settings="old"))[1].good


@pytest.mark.parametrize(
    "what, step",
    [
        (seen(CANARY, healthy=True), "serves"),
        (seen(CANARY), "up"),
        (seen(SERVING, minutes=10, requests=500), "rests"),
        (seen(SERVING, minutes=9.9, requests=500), "serves"),
        (seen(SERVING, gates={**OPEN, "CanaryGate": "ALARM"}), "clean"),
        (seen(CANARY, status="UPDATE_ROLLBACK_COMPLETE"), "clean"),
        (seen({**SERVING, **ROLLED}), "clean"),
        (seen({**CANARY, **ROLLED}), "clean"),
    ],
)
def test_a_rollout_that_was_killed_goes_on_from_what_stands(what, step):
    assert decide("preflight", what)[0].step == step


@pytest.mark.parametrize("other", [{"CanaryImageId": BAD}, {"CanarySettingsHash": "other"}])
@pytest.mark.parametrize("step", ["up", "serves", "rests", "asked", "roll", "clean"])
@pytest.mark.parametrize("stands", [CANARY, SERVING])
def test_another_ones_canary_is_left_alone(step, stands, other):
    """A rollback has taken ours away in between, and another rollout has begun."""
    what = seen({**stands, **other, **(ROLLED if step == "clean" else {})}, healthy=True, minutes=10, requests=200)
    _, action = decide(step, what, True, canary=(GOOD, "new"))
    assert isinstance(action, End) and f"the canary of {what.canary[0]} that stands is somebody else's, and is left alone" in action.says
    assert action.good == (step == "clean")


def test_a_canary_of_other_settings_is_not_said_to_be_gone_on_with():
    said = stops("preflight", seen({**CANARY, "CanarySettingsHash": "other"}))
    assert "the settings have changed since, `make rollback ENV=prod` ends it" in said and "goes on with it" not in said


def test_what_is_at_rest_is_not_waited_for():
    """A stack that was deleted meanwhile, and has nothing but a change set now: it would be for ever."""
    assert "REVIEW_IN_PROGRESS" in stops("up", seen(CANARY, status="REVIEW_IN_PROGRESS"))


def test_nothing_is_done_where_all_is_there():
    assert decide("preflight", seen(ROLLED))[1].good


def test_an_answer_outlives_an_update_of_somebody_else():
    looks, actions = iter([seen(), seen(status="UPDATE_IN_PROGRESS"), seen(), seen(status="UPDATE_FAILED")]), []

    def act(action, what, state):
        actions.append(type(action))
        return True if isinstance(action, Migrate) else None

    steps.drive(lambda *words: steps.decide(words[0], GOAL, *words[1:]), State(), lambda: next(looks), act)
    assert actions == [Migrate, Wait, Update]


# ---- Random events ---------------------------------------------------------------------------------------------------
class Model:
    """A stack and what is around it, to which things happen; it notices what must never be."""

    def __init__(self, events, minimum):
        self.events, self.minutes, self.since, self.status = list(events), 0, 0, "UPDATE_COMPLETE"
        self.parameters, self.gates = dict(REST), dict(OPEN)
        self.refresh, self.suspended, self.healthy, self.requests, self.settings = "", (), False, 0, "new"
        self.goal, self.looked, self.kills, self.steps = dataclasses.replace(GOAL, minimum=minimum), None, 0, 0

    def happens(self):
        return self.events.pop(0) if self.events else "nothing"

    def look(self):
        self.minutes += 1
        match self.happens():
            case "a gate alarms":
                self.gates["ServiceGate"] = "ALARM"
            case "the canary's gate alarms":
                self.gates["CanaryGate"] = "ALARM"
            case "gates open":
                self.gates = dict(OPEN)
            case "healthy":
                self.healthy = True
            case "requests":
                self.requests += 150
            case "a refresh":
                self.refresh = "InProgress"
            case "a process is suspended":
                self.suspended = ("Launch",)
            case "settings change":
                self.settings = "newer"
            case "somebody updates":
                self.status = "UPDATE_IN_PROGRESS"
            case "somebody takes it back":
                self.parameters |= {key: REST[key] for key in CANARY | SERVING}
            case "another rollout" if self.parameters["CanaryInstances"] == "0":
                self.parameters |= {**CANARY, "CanaryImageId": BAD, "CanaryWeight": "10"}
            case "killed":
                self.kills += 1
                raise Killed
        self.looked = Seen(
            NOON + datetime.timedelta(minutes=self.minutes), self.status, NOON + datetime.timedelta(minutes=self.since),
            dict(self.parameters), dict(self.gates), IMAGE, self.settings, self.refresh, self.suspended, 4, self.healthy, self.requests,
        )  # fmt: skip
        return self.looked

    def act(self, action, seen, state):
        assert seen is self.looked is not None, "acts on what it has not just seen"
        self.looked, self.steps = None, self.steps + 1
        assert self.steps < 200, "it does not end"
        match action:
            case Wait():
                self.status = "UPDATE_COMPLETE"
            case Migrate():
                return self.happens() != "it fails" or "FAILED"
            case Ask():
                return self.happens() != "it fails"
            case Update():
                return self.update(action, seen)

    def update(self, action, seen):
        new = {**self.parameters, **action.parameters}
        if "ImageId" in action.parameters:
            assert set(seen.gates.values()) == {"OK"}, "changes ImageId while a gate alarms"
            assert self.parameters["CanaryWeight"] == "0", "rolls while the canary has requests"
            assert action.gate == "ServiceGate"
        if new["CanaryWeight"] == "10":
            assert new["ImageId"] == OLD and new["CanaryInstances"] == "1", "weight 10 with another image"
            assert action.parameters.get("CanaryWeight") != "10" or action.gate == "CanaryGate"
        if "CanaryWeight" in action.parameters and BAD == self.parameters["CanaryImageId"]:
            assert self.parameters["ImageId"] == GOOD, "takes another one's canary away, or gives it requests"
        self.since, self.minutes, self.requests, what = self.minutes, self.minutes + action.minutes, 0, self.happens()
        if what == "killed":
            self.kills += 1
            self.parameters, self.status = new, "UPDATE_IN_PROGRESS"
            raise Killed
        if what == "it fails" or (action.gate and what in ("a gate alarms", "the canary's gate alarms")):
            self.status = "UPDATE_ROLLBACK_COMPLETE"
            return "rolled back"
        if what == "it is refused":
            return "refused"
        self.parameters, self.status = new, "UPDATE_COMPLETE"
        return True


class Killed(Exception):
    pass


EVENTS = [
    "nothing", "a gate alarms", "the canary's gate alarms", "gates open", "healthy", "requests", "a refresh", "a process is suspended",
    "settings change", "somebody updates", "killed", "it fails", "it is refused", "somebody takes it back", "another rollout",
]  # fmt: skip
LUCK = ["nothing", "healthy", "requests", "gates open", "killed", "somebody updates"]
SEQUENCES = strategies.lists(strategies.sampled_from(EVENTS) | strategies.sampled_from(LUCK), max_size=60)


def run(model):
    """A rollout, started again whenever it was killed."""
    while True:
        try:
            return steps.drive(lambda *words: steps.decide(words[0], model.goal, *words[1:]), State(), model.look, model.act)[1]
        except Killed:
            pass


@hypothesis.settings(max_examples=600, deadline=None, derandomize=True, database=None)
@hypothesis.given(SEQUENCES, strategies.sampled_from([0, 200]))
def test_whatever_happens_it_ends_and_leaves_no_weight(events, minimum):
    model = Model(events, minimum)
    end = run(model)
    parameters = model.parameters
    assert parameters["CanaryWeight"] == "0" or parameters["ImageId"] == OLD or parameters["CanaryImageId"] == BAD
    if end.good and "stands" not in end.says:
        assert (parameters["ImageId"], parameters["CanaryInstances"], parameters["CanaryWeight"]) == (GOOD, "0", "0")
    elif not end.good and "STILL THERE" not in end.says and parameters["CanaryImageId"] != BAD:
        assert (parameters["ImageId"], parameters["CanaryInstances"], parameters["CanaryWeight"]) == (OLD, "0", "0"), end


@pytest.mark.parametrize("at", range(24))
def test_killed_at_each_look_and_at_each_update_it_ends_well(at):
    model = Model(["healthy"] * at + ["killed"] + ["healthy"] * 50, 0)
    assert run(model).good and model.parameters["ImageId"] == GOOD


def test_the_random_events_reach_each_step_and_each_end():
    """Otherwise the property would say nothing."""
    reached = set()

    def spy(state, goal, what, answer=None, decide=steps.decide):
        new, action = decide(state, goal, what, answer)
        reached.add((new.step, type(action).__name__))
        return new, action

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(SEQUENCES, strategies.sampled_from([0, 200]))
    def sample(events, minimum):
        model = Model(events, minimum)
        while True:
            try:
                steps.drive(lambda *words: spy(words[0], model.goal, *words[1:]), State(), model.look, model.act)
                return
            except Killed:
                pass

    sample()
    wanted = {("migrate", "Migrate"), ("up", "Update"), ("up", "Look"), ("serves", "Update"), ("serves", "Look"), ("rests", "Update")}
    wanted |= {("asked", "Ask"), ("roll", "Update"), ("clean", "Update"), ("clean", "End"), ("preflight", "End"), ("up", "Wait")}
    assert wanted <= reached, wanted - reached
