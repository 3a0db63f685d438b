"""What a rollback decides: where it goes, what it stops first, and how it ends."""

import datetime

import pytest

import emulator  # noqa: F401, which puts the commands on the path
import back
from back import Change, Still
from rollouts import BAD, GOOD, OLD, OLDER
from steps import End, Look, Update, Wait
from test_rollout import CANARY, IMAGE, NOON, REST, ROLLED, SERVING, seen

GOOD_END, TAKEN_BACK = "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"


def changes(*words):
    """Such as ("rollout", GOOD) for one that went well, and a third word for another end."""
    return [Change(NOON, command, image, *(ended or [GOOD_END])) for command, image, *ended in words]


def test_the_history_is_what_the_stacks_events_say():
    def event(minute, status, token="", name="salebell-dev-service"):
        when = NOON + datetime.timedelta(minutes=minute)
        return {"StackName": "salebell-dev-service", "LogicalResourceId": name, "ResourceStatus": status, "Timestamp": when} | (
            {"ClientRequestToken": token} if token else {}
        )

    events = [
        event(0, "CREATE_IN_PROGRESS", f"deploy-20261130-115900-abcdef-{OLD}"),
        event(1, "CREATE_COMPLETE", f"deploy-20261130-115900-abcdef-{OLD}", "LiveGroup"),
        event(1, "CREATE_COMPLETE", f"deploy-20261130-115900-abcdef-{OLD}"),
        event(2, "UPDATE_IN_PROGRESS", "rollout-serves-20261130-115900-abcdef"),
        event(3, "UPDATE_COMPLETE", "rollout-serves-20261130-115900-abcdef"),
        event(4, "UPDATE_IN_PROGRESS", f"rollout-roll-20261130-115900-abcdef-{BAD}"),
        # A cancel has a token of its own.
        event(5, "UPDATE_ROLLBACK_IN_PROGRESS", "0123"),
        event(6, "UPDATE_ROLLBACK_COMPLETE", "0123"),
        event(7, "UPDATE_IN_PROGRESS"),
        event(8, "UPDATE_COMPLETE"),
        event(9, "UPDATE_IN_PROGRESS", f"rollout-roll-20261130-115900-abcdef-{GOOD}"),
    ]
    found = back.history(reversed(events))
    assert [(one.command, one.image, one.ended) for one in found] == [
        ("deploy", OLD, "CREATE_COMPLETE"), ("rollout", BAD, "UPDATE_ROLLBACK_COMPLETE"), ("rollout", GOOD, ""),
    ]  # fmt: skip
    assert str(found[1]) == f"2026-11-30 12:04 {BAD} by make rollout (taken back)" and str(found[2]).endswith("(under way)")


LIVE = {"ImageId": GOOD, "SettingsHash": "new", "CanaryImageId": GOOD, "CanarySettingsHash": "new"}


@pytest.mark.parametrize(
    "had, stands, image, why",
    [
        ([("deploy", OLD), ("rollout", GOOD)], LIVE, OLD, "which was there before"),
        ([("deploy", OLDER), ("rollout", OLD), ("rollout", BAD, TAKEN_BACK), ("rollout", GOOD)], LIVE, OLD, "which was there before"),
        # The bad one is not what was before the one that it was taken back to.
        ([("deploy", OLDER), ("rollout", OLD), ("rollout", BAD), ("rollback", OLD), ("rollout", GOOD)], LIVE, OLD, "before"),
        ([("deploy", OLDER), ("rollout", BAD), ("rollout", OLDER), ("deploy", GOOD)], LIVE, OLDER, "before"),
        ([("deploy", OLDER), ("rollout", OLD), ("rollout", BAD), ("rollout", OLD)], {}, OLDER, "before"),
        # Twice is once.
        ([("deploy", GOOD), ("rollout", BAD), ("rollback", GOOD)], LIVE, None, "has gone back"),
        ([("deploy", OLD), ("rollout", GOOD), ("rollout", BAD, TAKEN_BACK)], LIVE, None, "was taken back already"),
        # One that has failed, or that somebody has cancelled, is tried again.
        ([("deploy", OLD), ("rollout", GOOD), ("rollback", OLD, TAKEN_BACK)], LIVE, OLD, "has not come"),
        ([("deploy", OLD), ("rollout", GOOD), ("rollback", OLDER, TAKEN_BACK)], LIVE, OLDER, "has not come"),
        # What make did not do.
        ([("deploy", OLDER), ("rollout", OLD)], LIVE, OLD, "the last that make gave it"),
        ([("deploy", OLD), ("rollout", GOOD, "UPDATE_ROLLBACK_FAILED")], LIVE, OLD, "the last that make gave it"),
        ([("deploy", GOOD)], LIVE, None, "do not say"),
        ([], LIVE, None, "do not say"),
        # A rollout that has not reached the live group only ends.
        ([("deploy", OLDER), ("rollout", OLD)], CANARY, None, "has not reached the live group"),
        ([("deploy", OLDER), ("rollout", OLD)], SERVING, None, "has not reached the live group"),
        ([("deploy", OLD), ("rollout", GOOD)], {**CANARY, **ROLLED}, OLD, "before"),
    ],
)
def test_it_goes_to_the_image_before(had, stands, image, why):
    found, because = back.target("", changes(*had), seen(stands))
    assert (found, why in because) == (image, True), because
    assert back.target(OLDER, changes(*had), seen(stands)) == (OLDER, "as IMAGE= says")


MINUTES = [datetime.timedelta(minutes=n) for n in range(12)]


@pytest.mark.parametrize(
    "still, call",
    [
        (Still("UPDATE_IN_PROGRESS", MINUTES[0]), "cancel_update_stack"),
        (Still("UPDATE_IN_PROGRESS", MINUTES[9], "InProgress"), "cancel_update_stack"),
        (Still("UPDATE_IN_PROGRESS", MINUTES[5], "InProgress", cancelled=True), None),
        (Still("UPDATE_IN_PROGRESS", MINUTES[6], "InProgress", cancelled=True), "rollback_instance_refresh"),
        (Still("UPDATE_ROLLBACK_IN_PROGRESS", MINUTES[6], "Baking"), "rollback_instance_refresh"),
        (Still("UPDATE_ROLLBACK_IN_PROGRESS", MINUTES[6], "InProgress", refused=True), "cancel_instance_refresh"),
        (Still("UPDATE_ROLLBACK_IN_PROGRESS", MINUTES[9], "RollbackInProgress"), None),
        (Still("UPDATE_ROLLBACK_IN_PROGRESS", MINUTES[11], "RollbackInProgress"), "cancel_instance_refresh"),
        (Still("UPDATE_ROLLBACK_IN_PROGRESS", MINUTES[11], "Cancelling"), None),
        # The stack's own way back bakes for five minutes, and must not be turned round.
        (Still("UPDATE_ROLLBACK_IN_PROGRESS", MINUTES[11], ""), None),
        (Still("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", MINUTES[11], ""), None),
    ],
)
def test_what_runs_is_stopped_step_by_step(still, call):
    assert back.stop(still) == call


def decide(step, image, what, answer=None):
    return back.decide(step, image, what, answer)


def test_the_live_group_goes_back_in_one_update_without_gates_and_canary():
    step, action = decide("begin", OLDER, seen({**SERVING, **ROLLED}, gates={}))
    assert step == "back" and (action.gate, action.minutes) == ("", 0)
    assert action.parameters == {
        "ImageId": OLDER, "SettingsHash": "new", "Gates": "off",
        "CanaryInstances": "0", "CanaryWeight": "0", "CanaryImageId": OLDER, "CanarySettingsHash": "new",
    }  # fmt: skip
    assert decide("back", OLD, seen())[1].good
    assert decide("back", OLDER, seen(), "no capacity")[1] == End(False, f"THE LIVE GROUP STILL HAS {OLD}: no capacity")


def test_a_rollout_that_has_not_reached_the_live_group_loses_its_canary():
    step, action = decide("begin", None, seen(SERVING))
    assert step == "clean" and action.parameters["CanaryWeight"] == "0" and "ImageId" not in action.parameters
    assert "Gates" not in action.parameters
    assert decide("clean", None, seen())[1].good
    assert "IS STILL THERE" in decide("clean", None, seen(SERVING), "refused")[1].says


def test_a_classic_way_back_leaves_room_for_one_instance():
    for desired, wanted in ((3, "3"), (8, "7")):
        _, action = decide("begin", OLDER, seen({"Rollout": "classic"}, desired=desired))
        assert action.parameters["InServiceDuringRoll"] == wanted


@pytest.mark.parametrize(
    "what, told",
    [
        (seen(image={}), "there is no image"),
        (seen(image={**IMAGE, "State": "failed"}), "is failed"),
        (seen(suspended=("Terminate",)), "Terminate is suspended"),
        (seen(status="UPDATE_FAILED"), "a person must mend"),
    ],
)
def test_what_cannot_be_is_refused(what, told):
    action = decide("begin", OLDER, what)[1]
    assert not action.good and told in action.says


def test_a_stack_that_could_not_go_back_is_told_to_once():
    what = seen(status="UPDATE_ROLLBACK_FAILED")
    step, action = decide("begin", OLDER, what)
    assert action.operation == "continue_update_rollback"
    assert not decide(step, OLDER, what)[1].good
    assert isinstance(decide(step, OLDER, seen(status="UPDATE_ROLLBACK_COMPLETE"))[1], Update)


def test_a_rollback_that_runs_is_not_cancelled_but_for_another_image():
    def events(token):
        return iter([{"ClientRequestToken": token}, {"ClientRequestToken": "rollback-back-20261130-115900-abcdef-ami-0"}])

    back_to_old = f"rollback-back-20261130-115900-abcdef-{OLD}"
    assert back.runs("", events(back_to_old)) and back.runs(OLD, events(back_to_old))
    assert back.runs("", events("rollback-clean-20261130-115900-abcdef"))
    assert not back.runs(OLDER, events(back_to_old))
    assert not back.runs("", events(f"rollout-roll-20261130-115900-abcdef-{OLD}")) and not back.runs("", iter([{}]))


def test_a_refresh_that_cannot_be_cancelled_ends_it():
    """Not for ever the same call."""
    step, action = decide("begin", OLDER, seen(refresh="InProgress"))
    assert decide(step, OLDER, seen(refresh="InProgress"))[1] == action
    ended = decide(step, OLDER, seen(refresh="InProgress"), "too many calls")[1]
    assert ended == End(False, "a refresh of the live group is InProgress: too many calls")


def test_a_refresh_that_somebody_has_begun_is_ended_first():
    assert decide("begin", OLDER, seen(refresh="InProgress"))[1].operation == "cancel_instance_refresh"
    assert isinstance(decide("begin", OLDER, seen(refresh="Cancelling"))[1], Look)
    assert decide("begin", OLDER, seen(status="UPDATE_IN_PROGRESS"))[1] == Wait()
    assert not decide("begin", OLDER, seen(status="REVIEW_IN_PROGRESS"))[1].good


def test_it_does_not_touch_what_is_there_already():
    assert decide("begin", REST["ImageId"], seen())[1].good
