"""Keeps the alarms of an environment from notifying for some minutes, such as during maintenance that would set them off.

It is a mute rule of CloudWatch: alarms are still evaluated and change their state, so `make status`, the gates of a rollout and
the rollback triggers see them as always. Only the actions of alarms are suppressed. Alarms that are still in ALARM when the mute
ends notify then.
"""

import datetime
import re
import time

from cloud import Refusal, agree, pauses, run, say
from words import command

# Most minutes of a mute: a working morning. Longer work has to repeat it, because a forgotten mute would hide an
# outage.
MOST = 240
# Most alarms in one CloudWatch rule.
ALARMS_OF_A_RULE = 100
UNHEARD = "What comes without an alarm is told all the same: a failed refresh, the database's events, shells, the budget."


def alarms(account):
    """Names of the alarms that notify a topic, and of all others: gates notify no one, and alarms that scale must continue to."""
    wanted = {"AlarmNamePrefix": account.prefix, "AlarmTypes": ["MetricAlarm", "CompositeAlarm"]}
    telling, others = [], []
    for page in account.client("cloudwatch").get_paginator("describe_alarms").paginate(**wanted):
        for one in page.get("MetricAlarms", []) + page.get("CompositeAlarms", []):
            does = one.get("AlarmActions", []) + one.get("OKActions", []) + one.get("InsufficientDataActions", [])
            tells = does and one.get("ActionsEnabled", True) and all(action.split(":")[2] == "sns" for action in does)
            (telling if tells else others).append(one["AlarmName"])
    return sorted(telling), sorted(others)


def rules(account):
    """The mute rules of the environment that are on or will be, by name: each as CloudWatch lists it."""
    wanted, found = {"Statuses": ["SCHEDULED", "ACTIVE"]}, {}
    while True:
        page = account.client("cloudwatch").list_alarm_mute_rules(**wanted)
        for one in page.get("AlarmMuteRuleSummaries", []):
            name = one["AlarmMuteRuleArn"].rsplit(":", 1)[1]
            if re.fullmatch(rf"{account.prefix}mute-\d+", name):
                found[name] = one
        if not page.get("NextToken"):
            return found
        wanted["NextToken"] = page["NextToken"]


def number(text):
    if not re.fullmatch(r"\d{1,6}", text) or int(text) > MOST:
        raise Refusal(f"MINUTES= is a number from 1 to {MOST}, or 0 to end a mute, not {text!r}")
    return int(text)


def remove(account, names):
    for name in sorted(names):
        say(command(account, "cloudwatch", "delete-alarm-mute-rule", alarmMuteRuleName=name))
        account.client("cloudwatch").delete_alarm_mute_rule(AlarmMuteRuleName=name)


def put(account, names, start, minutes, why):
    """Makes a rule for each hundred alarms, and removes surplus ones of an earlier mute. Returns their names."""
    made = []
    for at in range(0, len(names), ALARMS_OF_A_RULE):
        schedule = {"Expression": f"at({start:%Y-%m-%dT%H:%M})", "Duration": f"PT{minutes}M", "Timezone": "UTC"}
        rule = {
            "Name": f"{account.prefix}mute-{at // ALARMS_OF_A_RULE + 1}",
            "Description": why,
            "Rule": {"Schedule": schedule},
            "MuteTargets": {"AlarmNames": names[at : at + ALARMS_OF_A_RULE]},
            # A one-time rule ends by itself; this also removes it from lists.
            "ExpireDate": start + datetime.timedelta(minutes=minutes),
        }
        say(command(account, "cloudwatch", "put-alarm-mute-rule", **{**rule, "ExpireDate": f"{rule['ExpireDate']:%FT%TZ}"}))
        account.client("cloudwatch").put_alarm_mute_rule(**rule)
        made.append(rule["Name"])
    remove(account, rules(account).keys() - set(made))
    return made


def begin(now):
    """The next full minute that is not over before all rules are made: one that begins in the past is never on."""
    return (now + datetime.timedelta(seconds=75)).replace(second=0, microsecond=0)


def wait(account, names, until):
    """Waits until all rules are on. They begin with a full minute, because they have no seconds."""
    for _ in pauses():
        found = rules(account)
        if all(found.get(name, {}).get("Status") == "ACTIVE" for name in names):
            return
        if time.time() > until:
            raise Refusal(f"CloudWatch does not say that {', '.join(names)} is on: the alarms tell everything until it does")


def main(account, options):
    minutes, there = number(options.minutes), rules(account)
    account.introduce(f"keeps the alarms quiet for {minutes} minutes" if minutes else "lets the alarms tell again")
    for name, one in there.items():
        say(f"    {name} is {one['Status']}" + (f" until {one['ExpireDate']:%H:%M} UTC" if one.get("ExpireDate") else ""))
    if not minutes:
        remove(account, there)
        say("the alarms tell again; those in ALARM now tell it at once" if there else "nothing was muted; nothing is changed", "green")
        return
    telling, others = alarms(account)
    if not telling:
        raise Refusal(f"no alarm of {account.environment} tells anybody anything: is it deployed?")
    for name in telling:
        say(f"    {name}")
    say(f"    {len(telling)} alarms tell nobody from the next minute or the one after it on. {UNHEARD}")
    say(f"    {len(others)} are left as they are: the gates of a rollout and what they are made of, which tell nobody anyway")
    if not options.yes:
        agree("mute these?")
    start = begin(datetime.datetime.now(datetime.UTC))
    who = account.caller.rsplit("/", 1)[-1]
    names = put(account, telling, start, minutes, f"{who}: {options.reason or 'no reason was given'}"[:1024])
    wait(account, names, start.timestamp() + 90)
    end = start + datetime.timedelta(minutes=minutes)
    say(f"muted until {end:%H:%M} UTC; what is in ALARM then is told then. Sooner: make mute ENV={account.environment} MINUTES=0", "green")


if __name__ == "__main__":
    run(
        main,
        __doc__.splitlines()[0],
        minutes={"required": True, "help": f"duration, up to {MOST}; 0 ends a mute"},
        reason={"default": "", "help": "purpose, which the rule shows"},
        yes="does not ask",
    )
