"""Follows the logs of an environment, or shows all lines of one request.

It calls FilterLogEvents every few seconds instead of using a live tail: that call also returns earlier lines, finds the lines of a
request, and omits nothing when there are more than 500 lines a second, as a live tail does.
"""

import collections
import datetime
import heapq
import itertools
import json
import re
import time

from cloud import FAILURES, Refusal, run, say
from words import command, output, seconds

GROUPS = {"access": "AccessLogGroup", "application": "ApplicationLogGroup", "system": "SystemLogGroup"}
# Levels of the journal (carry-logs.py), most severe first.
LEVELS = ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"]
# Days for which CloudWatch keeps logs (foundation, RetentionInDays).
DAYS = 90
# One call for each group every 3 s is a fifth of the account's quota. The agent delivers lines up to 5 s late, and each
# instance separately: therefore the last 20 s are queried again, and lines already shown are recognized by their ids.
PAUSE, LATE = 3, 20
REMEMBERED = 50_000


def pattern(options):
    """Filter pattern for CloudWatch; None: everything."""
    if options.request_id:
        return f'"{options.request_id}"'
    if options.level:
        levels = LEVELS[: LEVELS.index(options.level) + 1]
        return "{ " + " || ".join(f'$.level = "{one}"' for one in levels) + " }"


def check(options):
    # The format that the service accepts from a client (src/telemetry/trace_context.rs), and nothing that has a meaning
    # in a pattern.
    if options.request_id and not re.fullmatch(r"[0-9A-Za-z._:/+=-]{1,128}", options.request_id):
        raise Refusal(f"REQUEST_ID= is what the header x-request-id had, letters and digits, not {options.request_id!r}")
    if options.level and options.level not in LEVELS:
        raise Refusal(f"LEVEL= is one of {', '.join(LEVELS)}, not {options.level!r}")
    if options.group and options.group not in GROUPS:
        raise Refusal(f"GROUP= is one of {', '.join(GROUPS)}, not {options.group!r}")


class Group:
    """One log group, of which a page is in memory at a time."""

    def __init__(self, account, name, pattern):
        self.client, self.name, self.pattern = account.client("logs"), name, pattern
        self.failed = None

    def lines(self, start, end):
        """Lines as (milliseconds, id, group, stream, text), the oldest first. Errors are kept in `failed`."""
        wanted = {"logGroupName": self.name, "startTime": start, "endTime": end}
        if self.pattern:
            wanted["filterPattern"] = self.pattern
        try:
            for page in self.client.get_paginator("filter_log_events").paginate(**wanted):
                for one in page.get("events", []):
                    yield one["timestamp"], one["eventId"], self.name, one.get("logStreamName", "-"), one["message"]
        except FAILURES as error:
            self.failed = error


class Seen:
    """The ids of the last lines."""

    def __init__(self):
        self.ids, self.order = set(), collections.deque()

    def new(self, id):
        if id in self.ids:
            return False
        self.ids.add(id)
        self.order.append(id)
        if len(self.order) > REMEMBERED:
            self.ids.discard(self.order.popleft())
        return True


def readable(line):
    """A line for people: time, group, instance, level, target, message, and the remaining fields."""
    return re.sub(r"[\t\n]", " ", line_text(line))


def line_text(line):
    at, _, group, stream, text = line
    when = datetime.datetime.fromtimestamp(at / 1000, datetime.UTC)
    head = f"{when:%m-%d %H:%M:%S}.{at % 1000:03d} {group.rsplit('/', 1)[-1]:<11} {stream:<19}"
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError
    except ValueError:
        return f"{head} {text.rstrip()}"
    level, message = fields.pop("level", "-"), fields.pop("message", "")
    source = fields.pop("target", None) or fields.get("unit", "-")
    for known in ("time", "unit", "service", "environment", "instance_id", "zone"):
        fields.pop(known, None)
    rest = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"{head} {str(level).upper():<7} {source} {message} {rest}".rstrip()


def level_fits(options, text):
    """The emulator of the tests treats every line as a match of a pattern of fields; AWS has already omitted the others."""
    if not options.level or options.request_id:
        return True
    try:
        return LEVELS.index(json.loads(text)["level"]) <= LEVELS.index(options.level)
    except (ValueError, KeyError, TypeError):
        return False


def main(account, options):
    check(options)
    since = seconds(options.since or ("3h" if options.request_id else "5m"), "SINCE", DAYS)
    now = time.time()
    names = [options.group] if options.group else list(GROUPS)
    groups = [Group(account, output(account, "foundation", GROUPS[name]), pattern(options)) for name in names]
    what = f"all lines of the request {options.request_id}" if options.request_id else "the lines of the logs"
    account.introduce(f"shows {what}, and changes nothing")
    begin = datetime.datetime.fromtimestamp(now - since, datetime.UTC)
    end = "now" if options.request_id else "now, and then what comes, until Ctrl-C"
    say(f"    {', '.join(group.name for group in groups)}, from {begin:%F %T} UTC to {end}")
    for group in groups:
        more = {"filterPattern": group.pattern} if group.pattern else {}
        say(command(account, "logs", "filter-log-events", logGroupName=group.name, startTime=int(begin.timestamp() * 1000), **more))
    count = 0
    try:
        for line in follow(groups, int(begin.timestamp() * 1000), once=bool(options.request_id)):
            if level_fits(options, line[4]):
                count += 1
                say(line[4].rstrip("\n") if options.json else readable(line))
    except KeyboardInterrupt:
        say(f"\nstopped after {count} lines")
        return 0
    say(f"{count} lines" + ("" if count else f": none in that time (SINCE=7d looks further back, up to {DAYS}d)"))
    return any(group.failed for group in groups)


def follow(groups, start, once):
    """Lines of all groups in the order of time; an unreadable group is reported, and left out from then on."""
    seen = Seen()
    for _ in itertools.count():
        end = int(time.time() * 1000)
        for line in heapq.merge(*(group.lines(start, end) for group in groups if not group.failed)):
            if seen.new(line[1]):
                yield line
        for group in groups:
            if group.failed and not hasattr(group, "reported"):
                group.reported = True
                say(f"error: {group.name} cannot be read: {group.failed}", "red")
        if once:
            return
        if all(group.failed for group in groups):
            raise Refusal("none of the groups can be read")
        start = max(start, end - LATE * 1000)
        time.sleep(PAUSE)


if __name__ == "__main__":
    run(
        main,
        __doc__.splitlines()[0],
        **{
            "request-id": {"default": "", "help": "shows all lines with this id, of all groups"},
            "since": {"default": "", "help": "begins this much earlier: 90s, 15m, 2h, 7d"},
            "level": {"default": "", "help": f"this level and more severe ones: {', '.join(LEVELS)}"},
            "group": {"default": "", "help": f"one of {', '.join(GROUPS)}"},
            "json": "lines as the log has them",
        },
    )
