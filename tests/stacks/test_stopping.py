"""Ctrl-C, SIGTERM and SIGHUP at every step of the commands that change stacks: a real signal to a real process, against MiniStack and
the stand-in of rollouts.py."""

import argparse
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest

from emulator import LIBRARY, ROOT, emulator, until  # noqa: F401
import cloud
import status
import stopping
from rollouts import BAD, GOOD, OLD
from test_commands import BUS, SLOW, folder, read_until  # noqa: F401
from test_rollout_commands import at_rest, names, world  # noqa: F401

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
AGAIN = f"    make rollout ENV=dev IMAGE={GOOD} YES=1 goes on from there\n"
IDLE = "salebell-dev-service is in {}: nothing of it is under way"
RUNS = "salebell-dev-service is in UPDATE_IN_PROGRESS: CloudFormation goes on with that by itself"
DELETED, UNLESS = "is deleted: it was not executed", "is deleted, unless CloudFormation executes it already"
TENTH, WITHOUT = f"! A TENTH OF THE REQUESTS GOES TO THE CANARY of {GOOD}, and NOBODY LOOKS AT IT", f"the canary of {GOOD} stands, without requests"
AFTER, OUT = "once CloudFormation has ended this update", "make rollback ENV=dev ends it, and takes the canary away"


def waiting(world):  # noqa: F811
    """Change sets that were not executed."""
    found = world.cloudformation.list_change_sets(StackName="salebell-dev-service")["Summaries"]
    return [one["ChangeSetName"] for one in found if one["ExecutionStatus"] == "AVAILABLE"]


# Where the signal comes: at a call, before or after it; and what is said then.
POINTS = [
    (("DescribeAlarms", 1, "after", INT), [IDLE.format("CREATE_COMPLETE")]),
    (("StartBuild", 1, "after", TERM), ["the job of salebell-dev-migrate, if it was started, goes on by itself", IDLE.format("CREATE_COMPLETE")]),
    (("BatchGetBuilds", 1, "after", INT), ["the job migrate:0 goes on by itself, and changes the database alone"]),
    # The canary comes up.
    (("CreateChangeSet", 1, "before", INT), [DELETED, IDLE.format("CREATE_COMPLETE")]),
    (("CreateChangeSet", 1, "after", HUP), [DELETED, IDLE.format("CREATE_COMPLETE")]),
    (("DescribeChangeSet", 2, "after", INT), [DELETED, IDLE.format("CREATE_COMPLETE")]),
    (("ExecuteChangeSet", 1, "before", INT), [UNLESS, IDLE.format("CREATE_COMPLETE")]),
    (("ExecuteChangeSet", 1, "after", TERM), [RUNS, WITHOUT, OUT]),
    (("DescribeTargetHealth", 2, "after", INT), [IDLE.format("UPDATE_COMPLETE"), WITHOUT, OUT]),
    # It serves.
    (("CreateChangeSet", 2, "after", INT), [DELETED, WITHOUT, OUT]),
    (("ExecuteChangeSet", 2, "after", INT), [RUNS, TENTH, AFTER, OUT]),
    (("GetMetricData", 1, "after", TERM), [IDLE.format("UPDATE_COMPLETE"), TENTH, OUT]),
    # It rests, the live group is rolled, the canary goes.
    (("CreateChangeSet", 3, "after", INT), [DELETED, TENTH, OUT]),
    (("ExecuteChangeSet", 3, "after", INT), [RUNS, WITHOUT, OUT]),
    (("ExecuteChangeSet", 4, "after", INT), [RUNS, WITHOUT, OUT]),
    (("ExecuteChangeSet", 5, "after", INT), [RUNS, OUT]),
]


@pytest.mark.parametrize("point, told", POINTS, ids=lambda one: "-".join(map(str, one[:3])) if isinstance(one, tuple) else "")
def test_a_rollout_that_is_stopped_says_what_stands_and_is_gone_on_with(world, point, told):  # noqa: F811
    world.set(kill=point)
    code, said = world.fork("rollout", f"--image={GOOD}", "--yes")
    assert code == 128 + point[3], said
    end = said[said.index("\nstopped by ") :]
    assert {INT: "Ctrl-C", TERM: "SIGTERM", HUP: "(SIGHUP)"}[point[3]] in end.splitlines()[1]
    assert all(one in end for one in told), end
    # No word too many.
    assert (TENTH in end, WITHOUT in end, OUT in end, AFTER in end) == tuple(one in told for one in (TENTH, WITHOUT, OUT, AFTER)), end
    assert end.endswith(AGAIN) and "Traceback" not in said and "error:" not in end and waiting(world) == []
    world.set(kill=None)
    code, said = world.fork("rollout", f"--image={GOOD}", "--yes")
    assert code == 0, said
    at_rest(world, GOOD)


@pytest.mark.parametrize("how", [INT, TERM, HUP])
def test_a_signal_while_it_waits_ends_it_soon(world, how):  # noqa: F811
    """From another process, at a moment that no call names."""
    world.set(busy=1_000_000)
    pid = world.begin("rollout", f"--image={GOOD}", "--yes", "--migrated", "--min-requests=5")
    until(lambda: names(world) == ["rollout-up"] and world.read()["clock"] > 40, "it to wait for CloudFormation")
    begun = time.monotonic()
    os.kill(pid, how)
    code, said = world.ended(pid)
    assert code == 128 + how and time.monotonic() - begun < 10 and "Traceback" not in said
    assert RUNS in said and said.endswith(f"    make rollout ENV=dev IMAGE={GOOD} MIGRATED=1 MIN_REQUESTS=5 YES=1 goes on from there\n")
    world.set(busy=1, left=0)
    world.rollout("--migrated")
    at_rest(world, GOOD)


def test_a_stop_at_the_last_question_says_that_the_canary_rests(world, monkeypatch):  # noqa: F811
    def asked(question):
        if "fewer than 200 requests" in question:
            os.kill(os.getpid(), INT)
            time.sleep(20)

    monkeypatch.setattr(cloud, "agree", asked)
    world.set(requests=3, seconds=120)
    code, said = world.fork("rollout", f"--image={GOOD}", "--min-requests=200")
    assert code == 130 and WITHOUT in said and OUT in said and "A TENTH" not in said, said


@pytest.mark.parametrize(
    "point, told",
    [
        (("DescribeStackEvents", 1, "after", INT), [IDLE.format("UPDATE_COMPLETE")]),
        (("CreateChangeSet", 1, "after", INT), [DELETED, IDLE.format("UPDATE_COMPLETE")]),
        (("ExecuteChangeSet", 1, "after", TERM), [RUNS]),
    ],
)
def test_a_rollback_that_is_stopped_says_what_stands_and_is_gone_on_with(world, point, told):  # noqa: F811
    world.rollout()
    world.set(kill=point)
    code, said = world.fork("rollback", "--yes")
    assert code == 128 + point[3] and all(one in said for one in told) and "Traceback" not in said, said
    assert said.endswith("    make rollback ENV=dev YES=1 goes on from there\n") and OUT not in said and waiting(world) == []
    world.set(kill=None)
    world.run("rollback", "--yes")
    at_rest(world, OLD)


def test_a_rollback_that_is_stopped_while_it_cancels_is_gone_on_with(world):  # noqa: F811
    world.set(kill=("ExecuteChangeSet", 2, "after"))
    assert world.fork("rollout", f"--image={BAD}", "--yes")[0] == -signal.SIGKILL
    world.set(left=50, kill=("CancelUpdateStack", 1, "after", INT))
    code, said = world.fork("rollback", "--yes")
    assert code == 130 and "is in UPDATE_ROLLBACK_IN_PROGRESS: CloudFormation goes on with that by itself, to its end or back" in said, said
    assert "! A TENTH OF THE REQUESTS" in said and said.endswith("    make rollback ENV=dev YES=1 goes on from there\n")
    world.set(left=0, kill=None)
    world.run("rollback", "--yes")
    at_rest(world, OLD)


def test_a_rollout_that_was_killed_while_its_canary_serves_is_shouted_by_status(world):  # noqa: F811
    """Which says nothing itself. After an hour the alarm CanaryLeft does."""
    world.set(kill=("GetMetricData", 1, "after"))
    code, said = world.fork("rollout", f"--image={GOOD}", "--yes")
    assert (code, said) == (-signal.SIGKILL, "")
    lines = list(status.groups(mock.MagicMock(environment="dev"), {"service": world.folder.stack("service")}))
    shouted = "a rollout is under way, has stopped half-way, or was taken back (make rollback ENV=dev makes it 0)"
    assert {f"! CanaryInstances IS 1: {shouted}", f"! CanaryWeight IS 10: {shouted}"} <= set(lines)


# ---- Where AWS does not answer, and a second one ---------------------------------------------------------------------
def test_without_an_answer_of_aws_it_ends_in_time_and_says_what_may_be_left(world):  # noqa: F811
    world.set(hangs=True, kill=("CreateChangeSet", 1, "after", INT))
    begun = time.monotonic()
    code, said = world.fork("rollout", f"--image={GOOD}", "--yes", "--migrated")
    assert code == 130 and "Traceback" not in said, said
    assert "AWS does not answer within 2 seconds: `make status ENV=dev` says what stands; what CloudFormation has begun goes on" in said
    assert "this change set may be left, which changes nothing:\n$ aws cloudformation delete-change-set --stack-name salebell-dev-service" in said
    assert time.monotonic() - begun < 30 and len(waiting(world)) == 1
    world.set(hangs=False, kill=None)
    world.rollout("--migrated")
    at_rest(world, GOOD)


def test_a_second_one_ends_it_at_once(world, monkeypatch):  # noqa: F811
    monkeypatch.setattr(stopping, "LIMIT_S", 55)
    world.set(hangs=True, kill=("CreateChangeSet", 1, "after", INT))
    pid = world.begin("rollout", f"--image={GOOD}", "--yes", "--migrated")
    until(world.path.with_name("hangs").exists, "the orderly end to begin")
    begun = time.monotonic()
    os.kill(pid, INT)
    assert world.ended(pid) == (130, "") and time.monotonic() - begun < 10


# ---- The other commands ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [INT, TERM, HUP])
def test_a_deploy_at_its_question_leaves_nothing_behind(folder, how):  # noqa: F811
    folder.template("40-bus.yaml", BUS)
    asked = folder.start("deploy")
    read_until(asked, "[y/N]")
    asked.send_signal(how)
    said, _ = asked.communicate(timeout=20)
    assert asked.returncode == 128 + how and DELETED in said and said.endswith("make deploy ENV=dev goes on from there\n"), said
    assert folder.status("bus") in (None, "DELETE_COMPLETE")


@pytest.mark.parametrize("program, state", [("deploy", "CREATE_IN_PROGRESS"), ("destroy", "CREATE_IN_PROGRESS")])
def test_a_command_that_is_stopped_while_it_waits_says_what_goes_on(folder, program, state):  # noqa: F811
    folder.template("30-slow.yaml", SLOW)
    first = folder.start("deploy", "--yes")
    until(folder.handle, "the stack to be in progress")
    if program == "destroy":
        first.kill()
        first.communicate()
        first = folder.start("destroy", "--yes")
        read_until(first, "waiting for it")
        time.sleep(1)
    first.send_signal(TERM)
    said, _ = first.communicate(timeout=20)
    assert first.returncode == 143 and "Traceback" not in said
    assert f"    salebell-dev-slow is in {state}: CloudFormation goes on with that by itself, to its end or back\n" in said, said
    assert said.endswith(f"    make {program} ENV=dev YES=1 goes on from there\n")
    folder.signal()


def test_a_stop_without_a_reader_still_deletes_the_change_set(folder):  # noqa: F811
    """`make deploy | tee log`, where Ctrl-C ends both; or a terminal that was closed."""
    folder.template("40-bus.yaml", BUS)
    folder.run("deploy", "--yes")
    asked = folder.start("deploy", "Colour=red")
    read_until(asked, "[y/N]")
    asked.stdout.close()
    asked.send_signal(INT)
    assert asked.wait(20) == 130
    found = folder.client("cloudformation").list_change_sets(StackName="salebell-dev-bus")["Summaries"]
    assert [one for one in found if one["ExecutionStatus"] == "AVAILABLE"] == []


# ---- The parts -------------------------------------------------------------------------------------------------------
def test_a_signal_while_the_modules_are_imported_ends_it_silently(tmp_path):
    program = tmp_path / "slow.py"
    program.write_text("import time\nprint('imports', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen([sys.executable, LIBRARY / "start.py", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "imports\n"
    process.send_signal(INT)
    assert process.communicate(timeout=20) == ("", "") and process.returncode == -INT


class Dies:
    def __del__(self):
        os.kill(os.getpid(), INT)
        for _ in range(1000):
            pass


class Sleeps:
    def __del__(self):
        time.sleep(1)


def test_a_signal_in_a_destructor_is_not_lost(capfd):
    def work():
        Dies()
        time.sleep(20)
        return 0

    def late():
        try:
            with stopping.limit(0.5):
                Sleeps()
                time.sleep(20)
        except stopping.Late:
            return 7

    reasons, before = [], signal.getsignal(INT)
    assert stopping.guard(late, reasons.append) == 7
    assert stopping.guard(work, reasons.append) == 130 and reasons == ["Ctrl-C"]
    assert signal.getsignal(INT) is before and "Traceback" not in capfd.readouterr().err


def test_what_is_ignored_stays_ignored():
    """As for a command that nohup has started."""
    before = signal.signal(HUP, signal.SIG_IGN)
    try:
        assert stopping.guard(lambda: os.kill(os.getpid(), HUP) or 7, None) == 7
    finally:
        signal.signal(HUP, before)


def test_the_command_that_goes_on_is_the_one_that_was_typed():
    flags = {"image": {"required": True}, "canary": {"default": "1"}, "min_requests": {"type": int}, "yes": "asks nothing",
             "parameters": {"default": []}, "request-id": {"default": ""}}  # fmt: skip
    given = argparse.Namespace(environment="prod", image=GOOD, canary="0", min_requests=0, yes=False, parameters=["A=1", "B=2"], request_id="")
    assert stopping.command("rollout", given, flags) == f"make rollout ENV=prod IMAGE={GOOD} CANARY=0 MIN_REQUESTS=0 'PARAMETERS=A=1 B=2'"
    assert stopping.command("change_sets", argparse.Namespace(environment="prod"), {}) == "make change-sets ENV=prod"
    script = (ROOT / "scripts/stacks.sh").read_text()
    assert 'exec "$python" scripts/lib/start.py "${programs[0]}" "$@"' in script
