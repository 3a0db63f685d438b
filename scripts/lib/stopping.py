"""The end of a command by a signal. The first one stops it in an orderly way, within two seconds: a change set that was not executed
is deleted, and the state of the stack, what continues by itself and the next command are printed. A second one ends it at once."""

import contextlib
import os
import shlex
import signal
import sys

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "the end of its terminal (SIGHUP)"}
# Limit in seconds for the orderly end: AWS may be what does not answer.
LIMIT_S = 2


class Stopped(KeyboardInterrupt):
    def __init__(self, number):
        self.number = number


class Late(BaseException):
    """The limit has passed."""


def guard(work, orderly_end):
    """The exit code of `work()`. If a signal stops it, 128 and its number, after `orderly_end(reason)`; the same without a
    reason if the reader of the output has ended."""
    raises, before, hook = True, {}, sys.unraisablehook

    def received(number, _):
        nonlocal raises
        if not raises:
            os._exit(128 + number)
        raises = False
        raise Stopped(number)

    def swallowed(unraisable):
        """Python cannot raise an exception out of a destructor: it is raised again a moment later."""
        nonlocal raises
        if not isinstance(unraisable.exc_value, (Stopped, Late)):
            return hook(unraisable)
        if isinstance(unraisable.exc_value, Stopped):
            raises, number = True, unraisable.exc_value.number
            signal.signal(signal.SIGALRM, lambda *_: received(number, None))
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    try:
        try:
            sys.unraisablehook = swallowed
            for one in SIGNALS:
                # One that is ignored stays so, as nohup wants it.
                if signal.getsignal(one) is not signal.SIG_IGN:
                    before[one] = signal.signal(one, received)
            code = work()
            raises = False
        except Stopped as stop:
            orderly_end(SIGNALS[stop.number])
            code = 128 + stop.number
        except BrokenPipeError:
            raises = False
            orderly_end(None)
            code = 1
        return code
    finally:
        sys.unraisablehook = hook
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def limit(seconds):
    """Raises Late in the block when the seconds are over."""
    running = True

    def late(*_):
        if running:
            raise Late

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
        running = False
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(begin, work, again, say, failures):
    """The exit code of `work(begin())`, for sys.exit(). A failure is a line and exit code 1. `again` is the command that continues."""
    account = None

    def refusing():
        nonlocal account
        try:
            account = begin()
            return work(account) or 0
        except failures as error:
            say(f"error: {error}", "red")
            return 1

    def tell(*line):
        try:
            say(*line)
        except OSError:
            # The terminal or the reader is gone. Python would complain about it once more at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def orderly_end(reason):
        tell(f"\nstopped by {reason}" if reason else "", "yellow")
        if account:
            inspect(account, tell, failures)
        tell(f"    {again} goes on from there" if account and account.subject else f"    nothing of CloudFormation was begun; again: {again}")

    return guard(refusing, orderly_end)


def inspect(account, tell, failures):
    """Deletes the change set that was not executed, and prints what stands."""
    change_set = account.change_set
    try:
        with limit(LIMIT_S):
            if change_set:
                name, gone = change_set.request["ChangeSetName"], change_set.discard()
                if gone:
                    unless = ", unless CloudFormation executes it already" if change_set.asked else ": it was not executed"
                    tell(f"    the change set {name} is deleted{unless}")
                elif change_set.asked:
                    tell(f"    CloudFormation was asked to execute the change set {name}")
                change_set = None if gone or change_set.asked else change_set
            if account.subject:
                for line in stands(account):
                    tell(*line)
    except (Late, *failures) as error:
        why = f"AWS does not answer within {LIMIT_S} seconds" if isinstance(error, Late) else error
        tell(f"    {why}: `make status ENV={account.environment}` says what stands; what CloudFormation has begun goes on", "red")
    if change_set:
        words = {key: change_set.request[key] for key in ("StackName", "ChangeSetName")}
        tell(f"    this change set may be left, which changes nothing:\n{account.command('delete-change-set', **words)}")


def stands(account):
    """Lines about the job and the stack that were worked on, and what continues by itself."""
    if account.job:
        yield (f"    the job {account.job} goes on by itself, and changes the database alone",)
    stack = account.stack(account.subject)
    if not stack:
        yield (f"    there is no stack {account.subject}",)
        return
    status = stack["StackStatus"]
    runs = status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS"
    goes_on = "CloudFormation goes on with that by itself, to its end or back" if runs else "nothing of it is under way"
    yield (f"    {stack['StackName']} is in {status}: {goes_on}",)
    yield from account.more(stack, runs)


def command(name, options, flags):
    """The `make` command with the options that were given; `flags` as run() takes them."""
    words = ["make", name.replace("_", "-"), f"ENV={options.environment}"]
    for key, how in flags.items():
        key = key.replace("-", "_")
        value, default = getattr(options, key), None if isinstance(how, str) else how.get("default")
        if value is True or value != default and value is not False:
            text = "1" if value is True else " ".join(value) if isinstance(value, list) else str(value)
            words.append(f"{key.upper()}={text}")
    return shlex.join(words)
