"""`make mute` against an emulated AWS."""

import datetime
import time
from unittest import mock

import pytest

from emulator import REGION, emulator  # noqa: F401
from test_operate import FOUNDATION, deploy, dev  # noqa: F401

# From scripts/operate, which the emulator has made known.
import mute  # isort: skip

WATCHED = {"Namespace": "x", "MetricName": "y", "Statistic": "Sum", "Period": 60, "EvaluationPeriods": 1, "Threshold": 1,
           "ComparisonOperator": "GreaterThanThreshold"}  # fmt: skip
TOPIC = f"arn:aws:sns:{REGION}:000000000000:topic"
SCALES = f"arn:aws:autoscaling:{REGION}:000000000000:scalingPolicy:1:autoScalingGroupName/x:policyName/y"


def alarm(dev, name, *actions):
    dev.client("cloudwatch").put_metric_alarm(AlarmName=name, AlarmActions=list(actions), **WATCHED)


def muted(dev):
    """The rules of the environment, by name: which alarms, how long."""
    cloudwatch, found = dev.client("cloudwatch"), {}
    for number in range(1, 5):
        try:
            rule = cloudwatch.get_alarm_mute_rule(AlarmMuteRuleName=f"salebell-dev-mute-{number}")
            found[rule["Name"]] = rule
        except cloudwatch.exceptions.ResourceNotFoundException:
            pass
    return found


def test_alarms_that_tell_somebody_are_muted_for_a_while(dev):
    alarm(dev, "salebell-dev-data-DbCpu", TOPIC)
    alarm(dev, "salebell-dev-service-ServiceGateLatency")
    alarm(dev, "salebell-dev-service-Scales", SCALES)
    alarm(dev, "salebell-prod-data-DbCpu", TOPIC)
    said = dev.run("mute", "--minutes=30", "--reason=the database is restored", answers="y\n")
    (rule,) = muted(dev).values()
    assert rule["MuteTargets"]["AlarmNames"] == ["salebell-dev-data-DbCpu"]
    assert rule["Rule"]["Schedule"]["Duration"] == "PT30M" and rule["Rule"]["Schedule"]["Timezone"] == "UTC"
    begin = datetime.datetime.strptime(rule["Rule"]["Schedule"]["Expression"], "at(%Y-%m-%dT%H:%M)").replace(tzinfo=datetime.UTC)
    # Never for ever.
    assert rule["ExpireDate"] == begin + datetime.timedelta(minutes=30)
    assert -30 < begin.timestamp() - time.time() < 76
    assert rule["Description"].endswith(": the database is restored")
    assert f"muted until {rule['ExpireDate']:%H:%M} UTC" in said and "2 are left as they are" in said
    assert "$ aws cloudwatch put-alarm-mute-rule --name salebell-dev-mute-1" in said


def test_status_shows_a_mute(dev):
    deploy(dev, foundation=FOUNDATION)
    assert "ALARMS ARE MUTED" not in dev.run("status")
    alarm(dev, "salebell-dev-data-DbCpu", TOPIC)
    dev.run("mute", "--minutes=30", "--yes")
    said = dev.run("status", code=1)
    assert "! ALARMS ARE MUTED by salebell-dev-mute-1 (ACTIVE) until " in said and "make mute ENV=dev MINUTES=0 ends it" in said


def test_a_mute_is_ended_by_zero_minutes(dev):
    alarm(dev, "salebell-dev-data-DbCpu", TOPIC)
    dev.run("mute", "--minutes=30", "--yes")
    said = dev.run("mute", "--minutes=0")
    assert "salebell-dev-mute-1 is ACTIVE until" in said and "the alarms tell again" in said and not muted(dev)
    assert "nothing was muted" in dev.run("mute", "--minutes=0")


def test_more_alarms_than_a_rule_takes_are_several_rules_and_what_is_too_much_goes(dev):
    for number in range(150):
        alarm(dev, f"salebell-dev-data-A{number:03}", TOPIC)
    dev.run("mute", "--minutes=30", "--yes")
    assert [len(rule["MuteTargets"]["AlarmNames"]) for rule in muted(dev).values()] == [100, 50]
    dev.client("cloudwatch").delete_alarms(AlarmNames=[f"salebell-dev-data-A{number:03}" for number in range(80)])
    said = dev.run("mute", "--minutes=5", "--yes")
    assert [len(rule["MuteTargets"]["AlarmNames"]) for rule in muted(dev).values()] == [70]
    assert "salebell-dev-mute-2 is ACTIVE until" in said and "$ aws cloudwatch delete-alarm-mute-rule --alarm-mute-rule-name salebell-dev-mute-2" in said


@pytest.mark.parametrize("minutes", ["241", "-1", "for ever", "", "1.5"])
def test_a_mute_has_an_end(dev, minutes):
    alarm(dev, "salebell-dev-data-DbCpu", TOPIC)
    said = dev.run("mute", f"--minutes={minutes}", "--yes", code=1)
    assert "MINUTES= is a number from 1 to 240" in said and not muted(dev)


def test_without_a_yes_nothing_is_muted(dev):
    alarm(dev, "salebell-dev-data-DbCpu", TOPIC)
    assert "not agreed" in dev.run("mute", "--minutes=30", answers="n\n", code=1) and not muted(dev)


def test_an_environment_without_alarms_has_nothing_to_mute(dev):
    assert "no alarm of dev tells anybody anything" in dev.run("mute", "--minutes=30", "--yes", code=1)


def test_what_tells_a_topic_by_any_of_its_actions_is_muted_and_what_also_scales_is_not():
    def one(name, **more):
        return {"AlarmName": name, "AlarmActions": [], **more}

    metric = [one("ok", OKActions=[TOPIC]), one("silent", AlarmActions=[TOPIC], ActionsEnabled=False), one("both", AlarmActions=[TOPIC, SCALES])]
    page = {"MetricAlarms": [*metric, one("unknown", InsufficientDataActions=[TOPIC])], "CompositeAlarms": [one("composite", AlarmActions=[TOPIC])]}
    account = mock.Mock(prefix="salebell-dev-")
    paginate = account.client.return_value.get_paginator.return_value.paginate
    paginate.return_value = [page]
    assert mute.alarms(account) == (["composite", "ok", "unknown"], ["both", "silent"])
    paginate.assert_called_once_with(AlarmNamePrefix="salebell-dev-", AlarmTypes=["MetricAlarm", "CompositeAlarm"])


def test_only_rules_of_this_command_are_known_and_also_those_that_will_be():
    names = ("salebell-dev-mute-1", "salebell-dev-mute-other", "salebell-dev-x", "salebell-prod-mute-1")
    found = [{"AlarmMuteRuleArn": f"arn:aws:cloudwatch:x:1:alarm-mute-rule:{name}"} for name in names]
    account = mock.Mock(prefix="salebell-dev-")
    listed = account.client.return_value.list_alarm_mute_rules
    listed.return_value = {"AlarmMuteRuleSummaries": found}
    assert list(mute.rules(account)) == ["salebell-dev-mute-1"]
    listed.assert_called_once_with(Statuses=["SCHEDULED", "ACTIVE"])


def test_a_mute_begins_with_a_minute_that_is_not_over_when_its_rules_are_made():
    for second, minute in ((0, 1), (44, 1), (46, 2), (59, 2)):
        now = datetime.datetime(2026, 11, 30, 12, 0, second, 999, tzinfo=datetime.UTC)
        assert mute.begin(now) == datetime.datetime(2026, 11, 30, 12, minute, tzinfo=datetime.UTC)


def test_a_mute_that_does_not_begin_is_told():
    account = mock.Mock(prefix="salebell-dev-")
    account.client.return_value.list_alarm_mute_rules.return_value = {"AlarmMuteRuleSummaries": []}
    with pytest.raises(mute.Refusal, match="does not say that salebell-dev-mute-1 is on"):
        mute.wait(account, ["salebell-dev-mute-1"], time.time())
