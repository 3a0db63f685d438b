"""`make rollout` and `make rollback` against MiniStack's CloudFormation: what they ask it for, and that they may be killed at any
time. What MiniStack does not do of it is rollouts.py's; what is decided is test_rollout.py's."""

import re
import shlex
import signal
import subprocess

import pytest

from emulator import ROOT, emulator  # noqa: F401, which puts the commands on the path
import back
import rollouts
import seen
import steps
from resolve import templates
from rollouts import BAD, GOOD, OLD, OLDER


@pytest.fixture
def world(tmp_path, emulator):  # noqa: F811
    accounts = emulator.__dict__.setdefault("accounts", [])
    accounts.append(tmp_path)
    return rollouts.world(tmp_path, emulator, f"{len(accounts):012}")


def at_rest(world, image):
    """The parameters of a stack that no rollout is about."""
    now = world.parameters()
    stands = [now[key] for key in ("ImageId", "CanaryImageId", "CanaryInstances", "CanaryWeight")]
    assert stands == [image, image, "0", "0"]
    return now


STEPS = ["rollout-up", "rollout-serves", "rollout-rests", "rollout-roll", "rollout-clean"]


def names(world):
    return [one["name"] for one in world.updates()]


def test_each_step_is_one_update_with_its_own_triggers(world):
    said = world.run("rollout", f"--image={GOOD}", answers="y\n")
    now = at_rest(world, GOOD)
    assert now["SettingsHash"] == now["CanarySettingsHash"] != "none" and now["Gates"] == "on"
    assert names(world) == STEPS
    assert [(one["triggers"], one["minutes"]) for one in world.updates()] == [
        ([], 0), (["CanaryGate"], 10), ([], 0), (["ServiceGate"], 0), ([], 0),
    ]  # fmt: skip
    # Parameters alone change: a template of another commit does not come along.
    assert not any(one["template"] for one in world.updates())
    assert [set(one["gives"]) for one in world.updates()][1:4] == [{"CanaryWeight"}, {"CanaryWeight"}, {"ImageId", "SettingsHash", "Gates"}]
    # Says where, asks once, shows the command of the AWS CLI, and what comes next.
    assert said.index("account 0000") < said.index(f"the live group has {OLD} on 2 instances") < said.index("[y/N]") < said.index("start-build")
    assert said.count("[y/N]") == 1 and said.count("$ aws cloudformation execute-change-set") == 5
    assert "--use-previous-template" in said and "Traceback" not in said
    assert said.rstrip().endswith("next: make status ENV=dev")
    assert "has" in world.rollout() and len(world.updates()) == 5, "a second run has nothing to do"


def test_all_is_read_anew_before_each_update(world):
    world.rollout()
    reads = {"DescribeStacks", "DescribeAlarms", "DescribeAutoScalingGroups", "DescribeInstanceRefreshes", "DescribeImages", "GetParametersByPath"}
    before = " ".join(world.operations).split("ExecuteChangeSet")[:-1]
    assert len(before) == 5
    for part in before:
        assert reads <= set(part.split()), reads - set(part.split())


def test_a_no_changes_nothing(world):
    assert "not agreed" in world.run("rollout", f"--image={GOOD}", answers="n\n", code=1)
    assert world.read()["calls"] == []


@pytest.mark.parametrize(
    "values, told",
    [
        ({"alarms": {"ServiceGate": "ALARM", "CanaryGate": "OK"}}, "ServiceGate is ALARM"),
        ({"alarms": {"ServiceGate": "OK"}}, "CanaryGate is not there"),
        ({"images": {}}, f"there is no image {GOOD} in this account and region"),
        ({"refresh": [{"Status": "InProgress", "StartTime": "2026-11-30T00:00:00+00:00"}]}, "a refresh of the live group is InProgress"),
        ({"suspended": ["Launch"]}, "Launch is suspended"),
    ],
)
def test_what_is_in_the_way_is_refused_before_anything_is_changed(world, values, told):
    world.set(**values)
    said = world.rollout(code=1)
    assert told in said and f"error: {GOOD} is not rolled out; `make status ENV=dev`" in said and "Traceback" not in said
    assert world.read()["calls"] == []


def test_without_a_service_there_is_nothing_to_roll(world):
    world.folder.client("cloudformation").delete_stack(StackName="salebell-dev-service")
    assert "there is no service to roll: make deploy ENV=dev comes first" in world.rollout(code=1)


@pytest.mark.parametrize("program", ["rollout", "rollback"])
def test_what_cannot_be_meant_is_refused_in_a_line(world, program):
    said = world.run(program, "--image=latest", "--yes", code=1)
    assert "IMAGE= must be the id of an image, such as ami-0c1f0b5d7e2a94863, not 'latest'" in said
    said = world.run(program, f"--image={GOOD}", "--yes", environment="tools", code=1)
    assert "ENV= must be dev, stage or prod" in said
    old = rollouts.SERVICE.replace("  CanaryGate: { Value: CanaryGate }\n", "").replace("  Rollout: { Type: String, Default: refresh }\n", "")
    world.cloudformation.update_stack(StackName="salebell-dev-service", TemplateBody=old)
    assert "has no CanaryGate, Rollout: make deploy ENV=dev STACK=service comes first" in world.run(program, f"--image={GOOD}", code=1)


def test_the_migration_is_of_the_image_that_is_rolled_out(world):
    world.rollout("--canary=0")
    ((_, build),) = [call for call in world.read()["calls"] if call[0] == "build"]
    name = f"salebell-arm64-{GOOD[4:]}"
    assert build["projectName"] == "salebell-dev-migrate"
    assert build["sourceLocationOverride"] == f"releases/images/{name}/migrate.zip"
    assert build["environmentVariablesOverride"] == [{"name": "IMAGE_NAME", "value": name, "type": "PLAINTEXT"}]


def test_a_migration_that_fails_ends_it(world):
    world.set(build="FAILED")
    said = world.rollout(code=1)
    assert "migrate:0 has ended in FAILED\n    make migrate has failed" in said
    assert world.updates() == [] and at_rest(world, OLD)


def test_where_no_job_migrates_a_person_does(world):
    client = world.folder.client("cloudformation")
    client.update_stack(StackName="salebell-dev-data", TemplateBody=rollouts.DATA.replace("MigrationSource", "Other"))
    assert "has no job that migrates" in (said := world.rollout(code=1)) and "MIGRATED=1" in said
    assert world.read()["calls"] == []
    world.rollout("--migrated")
    assert [call[0] for call in world.read()["calls"]] == ["update"] * 5 and at_rest(world, GOOD)


@pytest.mark.parametrize("canary", ["unhealthy http", "unhealthy grpc", "absent"])
def test_a_canary_that_does_not_come_up_goes(world, canary):
    world.set(canary=canary, seconds=60)
    said = world.rollout(code=1)
    assert "is not healthy in both" in said and names(world) == ["rollout-up", "rollout-clean"] and at_rest(world, OLD)


def test_a_canary_that_serves_badly_is_taken_back_by_its_trigger(world):
    world.set(fires=["CanaryGate"])
    said = world.rollout(code=1)
    assert "UPDATE_ROLLBACK_COMPLETE, because of" in said and "the canary goes, because the canary was taken back" in said
    assert names(world) == ["rollout-up", "rollout-serves", "rollout-clean"] and at_rest(world, OLD)


def test_a_gate_that_closes_after_the_ten_minutes_takes_it_away_too(world):
    world.set(requests=3, seconds=30)
    with world.changed() as content:
        content["later"] = {"clock": 1700, "alarms": {"ServiceGate": "OK", "CanaryGate": "ALARM"}}
    said = world.rollout("--min-requests=200", code=1)
    assert "waits for requests: 3 of 200" in said and "must get no more requests: CanaryGate is ALARM" in said
    assert names(world) == ["rollout-up", "rollout-serves", "rollout-clean"] and at_rest(world, OLD)


@pytest.mark.parametrize("words, answers, image", [(["--yes"], "", OLD), ([], "y\nn\n", OLD), ([], "y\ny\n", GOOD)])
def test_after_too_few_requests_a_person_decides_while_the_canary_rests(world, words, answers, image):
    world.set(requests=3, seconds=120)
    said = world.run("rollout", f"--image={GOOD}", "--min-requests=200", *words, answers=answers, code=int(image == OLD))
    assert ("fewer than 200 requests in 30 minutes" in said) == (not words)
    assert names(world)[:3] == STEPS[:3] and ("rollout-roll" in names(world)) == (image == GOOD)
    at_rest(world, image)


# ---- Others, and AWS, in between -------------------------------------------------------------------------------------
# What stands when a rollback, or a rollback and another rollout, have come between what was seen and the change set.
GONE = {"CanaryInstances": "0", "CanaryWeight": "0", "CanaryImageId": OLD, "CanarySettingsHash": "none"}
ANOTHER = {"CanaryInstances": "1", "CanaryWeight": "0", "CanaryImageId": BAD}


@pytest.mark.parametrize("step, other", [("serves", ANOTHER), ("rests", {**ANOTHER, "CanaryWeight": "10"}), ("roll", GONE), ("roll", ANOTHER)])
def test_what_was_seen_before_somebody_elses_update_is_not_acted_on(world, step, other):
    world.set(other=[f"rollout-{step}", other])
    said = world.rollout(code=1)
    assert "somebody else has changed the stack meanwhile" in said
    now = world.parameters()
    assert {key: now[key] for key in other} == other and now["ImageId"] == OLD
    assert ("is somebody else's, and is left alone" in said) == (other["CanaryInstances"] == "1")


# Each of the calls of a rollout fails once, in a step at which its canary has requests, or is about to have them.
@pytest.mark.parametrize(
    "call, number",
    [("DescribeStacks", 30), ("DescribeAlarms", 6), ("DescribeStackEvents", 4), ("DescribeAutoScalingGroups", 5), ("GetMetricData", 1),
     ("CreateChangeSet", 3), ("ExecuteChangeSet", 3), ("DescribeChangeSet", 5), ("GetParametersByPath", 6), ("DescribeInstanceRefreshes", 9)],
)  # fmt: skip
def test_a_call_that_fails_leaves_no_canary_with_requests(world, call, number):
    world.set(errors=[call, "ThrottlingException", number, 1])
    code, said = world.fork("rollout", f"--image={GOOD}", "--yes")
    assert "ThrottlingException" in said
    now = world.parameters()
    assert (now["CanaryInstances"], now["CanaryWeight"]) == ("0", "0") and now["ImageId"] in (OLD, GOOD), said
    assert (now["ImageId"] == GOOD) == (code == 0), said


def test_credentials_that_expire_for_ever_are_told_loudly(world, monkeypatch):
    monkeypatch.setattr(seen, "PATIENCE_S", 0.2)
    world.set(errors=["DescribeAlarms", "ExpiredToken", 7, 1000])
    said = world.rollout(code=1)
    assert said.count("asks again") > 1 and "! NOBODY LOOKS AT THE CANARY NOW" in said and "Traceback" not in said
    assert f"make rollout ENV=dev IMAGE={GOOD} goes on, make rollback ENV=dev ends it" in said
    world.set(errors=None)
    world.rollout()
    at_rest(world, GOOD)


def test_a_closed_gate_does_not_keep_it_from_an_image_that_was_there_before(world):
    """A stage of a pipeline that is rolled back because of ServiceGate runs with the image before, while the gate is closed."""
    world.rollout()
    world.set(alarms={"ServiceGate": "ALARM", "CanaryGate": "ALARM"}, calls=[])
    assert "ServiceGate is ALARM" in world.rollout(image=BAD, code=1) and world.read()["calls"] == []
    said = world.run("rollout", f"--image={OLD}", answers="y\n")
    assert f"has had {OLD} before: goes back to it, without a canary, WITHOUT THE GATES" in said
    assert names(world) == ["rollout-roll"] and world.updates()[0]["triggers"] == []
    assert at_rest(world, OLD)["Gates"] == "off" and [call[0] for call in world.read()["calls"]] == ["update"]
    # The bad one was there after it.
    assert "ServiceGate is ALARM" in world.rollout(image=GOOD, code=1)


def test_what_is_refused_is_not_asked_for_again(world):
    world.set(errors=["DescribeAlarms", "AccessDenied", 7, 1000])
    said = world.rollout(code=1)
    assert "asks again" not in said and "! NOBODY LOOKS AT THE CANARY NOW" in said
    # Before there is a canary, nobody is told to look at it.
    world.set(errors=["StartBuild", "ThrottlingException", 1, 1])
    assert "NOBODY LOOKS" not in world.run("rollout", f"--image={BAD}", "--yes", "--canary=0", code=1)


def test_a_roll_that_the_gate_ends_leaves_the_image_and_no_canary(world):
    world.set(fires=["ServiceGate"])
    said = world.rollout(code=1)
    assert f"the live group keeps {OLD}: CloudFormation has taken the roll back" in said
    assert names(world) == STEPS and at_rest(world, OLD)
    # The next one begins at the start.
    world.set(fires=[])
    world.rollout()
    at_rest(world, GOOD)


def test_without_a_canary_it_is_one_update(world):
    assert "without a canary" in world.rollout("--canary=0")
    assert names(world) == ["rollout-roll"] and at_rest(world, GOOD)


def test_a_classic_roll_keeps_the_present_number(world):
    client = world.folder.client("cloudformation")
    known = [{"ParameterKey": key, "UsePreviousValue": True} for key in world.parameters() if key != "Rollout"]
    classic = {"ParameterKey": "Rollout", "ParameterValue": "classic"}
    client.update_stack(StackName="salebell-dev-service", UsePreviousTemplate=True, Parameters=[*known, classic])
    world.set(desired=3)
    world.rollout("--canary=0")
    (update,) = world.updates()
    assert update["gives"]["InServiceDuringRoll"] == "3" and update["minutes"] == 5


# ---- Killed ----------------------------------------------------------------------------------------------------------
# The call, which one of them, and whether before or after it. Each of the five updates at its change set, at its execution and
# while CloudFormation works; the preflight, the migration and both waits.
POINTS = [("DescribeAlarms", 1, "after"), ("StartBuild", 1, "before"), ("StartBuild", 1, "after"), ("BatchGetBuilds", 1, "after")]
POINTS += [("CreateChangeSet", number, "after") for number in range(1, 6)]
POINTS += [("ExecuteChangeSet", number, "after") for number in range(1, 6)]
POINTS += [("ExecuteChangeSet", 4, "before"), ("ExecuteChangeSet", 5, "before")]
POINTS += [("DescribeStackEvents", 2, "after"), ("DescribeStackEvents", 5, "after"), ("DescribeTargetHealth", 2, "after")]
POINTS += [("GetMetricData", 1, "after")]


def test_killed_at_each_step_and_started_again_it_ends_well_20_of_20(world):
    assert len(POINTS) == 20
    image, well = OLD, 0
    for number, point in enumerate(POINTS):
        # Each time to another image.
        image = GOOD if image == OLD else OLD
        world.set(kill=point)
        code, said = world.fork("rollout", f"--image={image}", "--yes")
        assert code == -signal.SIGKILL, f"{point}: {code}\n{said}"
        world.set(kill=None)
        code, said = world.fork("rollout", f"--image={image}", "--yes")
        assert code == 0, f"{point}: {said}"
        at_rest(world, image)
        well += 1
    assert well == 20


@pytest.mark.parametrize("fires, points", [("CanaryGate", [2, 3]), ("ServiceGate", [4, 5])])
def test_killed_while_it_fails_and_started_again_it_ends_as_it_began(world, fires, points):
    for point in points:
        world.set(fires=[fires], kill=("ExecuteChangeSet", point, "after"))
        assert world.fork("rollout", f"--image={BAD}", "--yes")[0] == -signal.SIGKILL
        world.set(kill=None)
        code, said = world.fork("rollout", f"--image={BAD}", "--yes")
        assert at_rest(world, OLD), said


# ---- Back ------------------------------------------------------------------------------------------------------------
def test_a_rollback_goes_to_the_image_before_and_twice_is_once(world):
    world.rollout()
    world.set(alarms={"ServiceGate": "ALARM", "CanaryGate": "ALARM"}, calls=[])
    said = world.run("rollback", answers="y\n")
    assert re.search(rf"{OLD} by make deploy\n.* {GOOD} by make rollout\n", said)
    assert said.index(f"the live group has {GOOD}, and gets {OLD}, which was there before") < said.index("[y/N]")
    (update,) = world.updates()
    assert (update["name"], update["triggers"], update["minutes"]) == ("rollback-back", [], 0)
    assert at_rest(world, OLD)["Gates"] == "off" and "gates are off" in said
    assert "there is nothing to take back" in world.run("rollback", "--yes") and len(world.updates()) == 1
    world.run("rollback", "--yes", f"--image={OLDER}")
    at_rest(world, OLDER)
    # The next rollout has gates again.
    world.set(alarms=rollouts.START["alarms"])
    world.rollout()
    assert at_rest(world, GOOD)["Gates"] == "on"


def test_a_no_takes_nothing_back(world):
    world.rollout()
    assert "not agreed" in world.run("rollback", answers="n\n", code=1)
    at_rest(world, GOOD)


def test_a_rollback_of_a_canary_leaves_the_live_group(world):
    for number, weight in ((2, "0"), (3, "10")):
        world.set(kill=("CreateChangeSet", number, "before"), calls=[])
        world.fork("rollout", f"--image={BAD}", "--yes")
        assert world.parameters()["CanaryInstances"] == "1" and world.parameters()["CanaryWeight"] == weight
        world.set(kill=None)
        assert f"a canary of {BAD} stands: `make rollout ENV=dev IMAGE={BAD}` goes on with it" in world.rollout(code=1)
        said = world.run("rollback", "--yes")
        assert f"the live group stays at {OLD}, since the rollout of {BAD} has not reached" in said
        assert names(world)[-1] == "rollback-clean" and at_rest(world, OLD)["Gates"] == "on"


def hangs(world, refresh="InProgress", **more):
    """A roll that CloudFormation does not end, with a refresh under way; the rollout was killed."""
    world.set(breaks=[GOOD], kill=("ExecuteChangeSet", 4, "after"))
    assert world.fork("rollout", f"--image={GOOD}", "--yes")[0] == -signal.SIGKILL
    world.set(left=100_000, kill=None, seconds=60, refresh=[{"Status": refresh, "StartTime": "2026-11-30T00:00:00+00:00"}], **more)


def called(world):
    return [call[0] for call in world.read()["calls"] if call[0] not in ("update", "build")]


def test_a_rollback_cancels_what_runs_then_the_refresh_and_takes_the_canary_away(world):
    hangs(world)
    said = world.run("rollback", answers="y\ny\n")
    assert called(world) == ["cancel", "rollback refresh", "cancel refresh"]
    assert "is in UPDATE_IN_PROGRESS: what runs is cancelled first" in said
    for command in ("cancel-update-stack --stack-name", "rollback-instance-refresh --auto-scaling-group-name live"):
        assert f"$ aws {'cloudformation' if 'stack' in command else 'autoscaling'} {command}" in said
    assert names(world)[-1] == "rollback-clean" and at_rest(world, OLD)


def test_a_refresh_that_cannot_go_back_is_cancelled(world):
    hangs(world, refuses=True)
    world.run("rollback", "--yes")
    assert called(world) == ["cancel", "cancel refresh"] and at_rest(world, OLD)


def test_a_rollback_that_runs_is_waited_for_by_the_next(world):
    """Killed and started again, or a second operator's: to cancel it would bring the bad image back."""
    world.rollout()
    world.set(kill=("ExecuteChangeSet", 1, "after"), calls=[])
    assert world.fork("rollback", "--yes")[0] == -signal.SIGKILL
    world.set(kill=None, left=5)
    said = world.run("rollback", "--yes")
    assert "a rollback runs already: waits for it" in said and "it has gone back to" in said
    assert called(world) == [] and names(world) == ["rollback-back"] and at_rest(world, OLD)


def test_a_rollback_to_another_image_cancels_the_one_that_runs(world):
    world.rollout()
    world.set(kill=("ExecuteChangeSet", 1, "after"), calls=[])
    assert world.fork("rollback", "--yes")[0] == -signal.SIGKILL
    world.set(kill=None, left=5)
    world.run("rollback", f"--image={OLDER}", "--yes")
    assert called(world) == ["cancel"] and at_rest(world, OLDER)


def test_a_rollback_that_has_failed_is_tried_again(world):
    world.rollout()
    world.set(breaks=[OLD])
    assert f"THE LIVE GROUP STILL HAS {GOOD}" in world.run("rollback", "--yes", code=1)
    world.set(breaks=[])
    assert f"gets {OLD}, to which the last rollback has not come" in world.run("rollback", "--yes")
    at_rest(world, OLD)


def test_without_any_history_it_shows_the_launch_templates_and_asks_for_an_image(world):
    said = world.run("rollback", "--yes", code=1)
    assert "do not say which image was there before; which is it (IMAGE=ami-…)?" in said
    assert re.search(rf"version 1: {OLD}", said) and world.updates() == []


# ---- What they stand on ----------------------------------------------------------------------------------------------
def test_the_template_has_what_the_commands_name():
    service = templates.stacks()["service"]
    stand_in = templates.yaml.load(rollouts.SERVICE, templates.Loader)
    assert stand_in["Parameters"].keys() - service["Parameters"].keys() == {"Fails"}
    assert stand_in["Outputs"].keys() == seen.OUTPUTS <= service["Outputs"].keys()
    assert seen.PARAMETERS == stand_in["Parameters"].keys() - {"Fails"}
    assert "BalancerFullName" in templates.stacks()["edge"]["Outputs"]
    for kind in service["Parameters"]["InstanceType"]["AllowedValues"]:
        assert steps.architecture(kind) == ("arm64" if kind[:3] in ("t4g", "m7g", "c7g") else "x86_64"), kind
    assert set(steps.MINIMUM) == {"dev", "stage", "prod"} and steps.MINIMUM["prod"] == 200


def test_an_image_in_a_token_is_found_in_the_history():
    for name in (f"deploy-20261130-020304-0a1b2c-{GOOD}", f"rollout-roll-20261130-020304-0a1b2c-{GOOD}"):
        assert re.fullmatch("[a-zA-Z0-9][-a-zA-Z0-9]{0,127}", name) and back.OPERATION.fullmatch(name)[2] == GOOD
    assert not back.OPERATION.fullmatch("rollout-serves-20261130-020304-0a1b2c")


def test_make_hands_over_what_it_is_given():
    words = ["ENV=prod", f"IMAGE={GOOD}", "CANARY=0", "GATES=off", "MINUTES=5", "MIN_REQUESTS=50", "MIGRATED=1", "YES=1"]
    said = subprocess.run(["make", "--no-print-directory", "-n", "rollout", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = f"rollout --environment=prod --image={GOOD} --canary=0 --gates=off --minutes=5 --min-requests=50 --migrated --yes"
    assert shlex.split(said.stdout) == ["scripts/stacks.sh", *wanted.split()]
    said = subprocess.run(["make", "--no-print-directory", "-n", "rollback", "ENV=prod"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shlex.split(said.stdout) == ["scripts/stacks.sh", "rollback", "--environment=prod"]
