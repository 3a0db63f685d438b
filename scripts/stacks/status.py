"""State of the environment, and problems that need a person (then the exit code is 1). Changes nothing."""

import datetime

import botocore.exceptions
import settings
from cloud import FAILURES, in_progress, outputs, pauses, run, say


# Each section yields its lines; a line that begins with `!` needs a person.
def stacks(account, found):
    for name, stack in found.items():
        if not stack:
            yield f"! {name} is not deployed (make deploy ENV={account.environment} STACK={name})"
        elif stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE") or in_progress(stack):
            yield f"{name} {stack['StackStatus']} {stack.get('LastUpdatedTime', stack['CreationTime']):%Y-%m-%d %H:%M}"
        else:
            why = stack.get("StackStatusReason") or "its last change has failed, or was never executed"
            yield f"! {name} {stack['StackStatus']}: {why} (make deploy ENV={account.environment} STACK={name} goes on from there)"


def drift(account, found):
    client = account.cloudformation
    can_drift = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_FAILED")
    at_rest = {name: stack for name, stack in found.items() if stack and stack["StackStatus"] in can_drift}
    # All at once, because each takes AWS a minute.
    detections = {name: client.detect_stack_drift(StackName=at_rest[name]["StackId"])["StackDriftDetectionId"] for name in at_rest}
    for name, detection in detections.items():
        seen = (client.describe_stack_drift_detection_status(StackDriftDetectionId=detection) for _ in pauses())
        seen = next(one for one in seen if one["DetectionStatus"] != "DETECTION_IN_PROGRESS")
        if seen.get("StackDriftStatus") != "DRIFTED":
            yield f"{name} {seen.get('StackDriftStatus')} {seen.get('DetectionStatusReason', '')}".rstrip()
            continue
        wanted = {"StackName": at_rest[name]["StackId"], "StackResourceDriftStatusFilters": ["MODIFIED", "DELETED"]}
        for one in client.describe_stack_resource_drifts(**wanted)["StackResourceDrifts"]:
            paths = ", ".join(difference["PropertyPath"] for difference in one.get("PropertyDifferences", []))
            yield f"! {name}: {one['LogicalResourceId']} {one['StackResourceDriftStatus']} {paths}"
        yield f"{name}: back to the template by make deploy ENV={account.environment} STACK={name} REVERT=1"


def groups(account, found):
    service, client = found.get("service"), account.client("autoscaling")
    for kind in ("LiveGroup", "CanaryGroup"):
        name = outputs(service).get(kind)
        for group in client.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"] if name else ():
            short = len(group["Instances"]) < group["MinSize"]
            yield f"{'! ' * short}{kind} has {len(group['Instances'])} instances (wanted: {group['MinSize']} to {group['MaxSize']})"
            for one in group["Instances"]:
                state = f"{one['LifecycleState']} {one['HealthStatus']} {one['AvailabilityZone']}"
                bad = "" if state.startswith("InService Healthy ") else "! "
                yield f"{bad}{one['InstanceId']} {state} {version(account, one['InstanceId'])}"
            for one in group.get("SuspendedProcesses", []):
                resume = f"aws autoscaling resume-processes --auto-scaling-group-name {name}"
                yield f"! {one['ProcessName'].upper()} IS SUSPENDED in {kind}: {resume}"
            for one in client.describe_instance_refreshes(AutoScalingGroupName=name)["InstanceRefreshes"][:1]:
                yield f"its last refresh: {one['Status']}, {one.get('PercentageComplete', 0)} %"
    deploy, back = f"make deploy ENV={account.environment} STACK=service", f"make rollback ENV={account.environment}"
    # A canary without requests is not a leftover of a rollout before it could become healthy.
    while_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=10)
    young = (service or {}).get("LastUpdatedTime", while_ago) > while_ago
    now = {one["ParameterKey"]: one["ParameterValue"] for one in (service or {}).get("Parameters", []) if not in_progress(service)}
    for key, (rest, end) in {"CanaryInstances": ("0", back), "CanaryWeight": ("0", back), "Gates": ("on", deploy)}.items():
        if now.get(key, rest) != rest:
            mark = "" if key == "CanaryInstances" and young and now.get("CanaryWeight") == "0" else "! "
            yield f"{mark}{key} IS {now[key]}: a rollout is under way, has stopped half-way, or was taken back ({end} makes it {rest})"
    if "SettingsHash" in now and now["SettingsHash"] != settings.settings_hash(account):
        yield f"! settings have changed that instances read only when they start ({deploy} rolls them out)"


def version(account, instance_id):
    """The image that an instance runs, and the version that the image's tag names; its name, where it is another account's."""
    ec2 = account.client("ec2")
    try:
        image_id = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]["ImageId"]
        image = ec2.describe_images(ImageIds=[image_id])["Images"][0]
    except (botocore.exceptions.ClientError, IndexError):
        return "(gone, or its image is)"
    tags = {tag["Key"]: tag["Value"] for tag in image.get("Tags", [])}
    return f"{image_id} version {tags.get('Version') or image.get('Name', 'unknown')}"


def alarms(account, found):
    client, count = account.client("cloudwatch"), 0
    wanted = {"AlarmNamePrefix": account.prefix, "AlarmTypes": ["MetricAlarm", "CompositeAlarm"]}
    for page in client.get_paginator("describe_alarms").paginate(**wanted):
        for alarm in page.get("MetricAlarms", []) + page.get("CompositeAlarms", []):
            count += 1
            if alarm["StateValue"] == "ALARM":
                yield f"! {alarm['AlarmName']}: {alarm.get('StateReason', '')}\n      {alarm.get('AlarmDescription', '')}"
    yield f"{count} were looked at"


def mutes(account, found):
    """Mute rules of `make mute`, and others whose names begin with the environment's."""
    client, wanted, count = account.client("cloudwatch"), {"Statuses": ["SCHEDULED", "ACTIVE"]}, 0
    while wanted:
        page = client.list_alarm_mute_rules(**wanted)
        for one in page["AlarmMuteRuleSummaries"]:
            name, end = one["AlarmMuteRuleArn"].rsplit(":", 1)[1], one.get("ExpireDate")
            if name.startswith(account.prefix):
                count += 1
                yield f"! ALARMS ARE MUTED by {name} ({one['Status']}) " + (f"until {end:%Y-%m-%d %H:%M} UTC" if end else "FOR EVER")
        wanted = page.get("NextToken") and {**wanted, "NextToken": page["NextToken"]}
    yield f"make mute ENV={account.environment} MINUTES=0 ends it" if count else "none"


def alerts(account, found):
    """Topics, and their confirmed subscriptions: without one, a topic notifies no one."""
    for kind in ("UrgentTopicArn", "OrdinaryTopicArn"):
        if topic := outputs(found.get("foundation")).get(kind):
            there = list(account.pages("sns", "list_subscriptions_by_topic", "Subscriptions", TopicArn=topic))
            confirmed = [one["Protocol"] for one in there if one["SubscriptionArn"].startswith("arn:")]
            hint = f"; the message to {', '.join(one['Endpoint'] for one in there)} must be confirmed" if there else ""
            yield f"{kind} reaches {', '.join(confirmed)}" if confirmed else f"! {kind} REACHES NOBODY{hint}"


def main(account, options):
    account.introduce("looks, and changes nothing")
    found, problems = {name: account.stack(account.prefix + name) for name in account.names()}, 0
    for section in (stacks, drift, groups, alarms, mutes, alerts):
        say(f"==> {section.__name__}")
        try:
            for line in section(account, found):
                bad = line.startswith("!")
                say(f"  {line}" if bad else f"    {line}", "red" if bad else None)
                problems += bad
        except FAILURES as error:
            say(f"  ! this could not be looked at: {error}", "red")
            problems += 1
    say(f"{problems} need{'s' * (problems == 1)} a person" if problems else "nothing needs a person", "red" if problems else "green")
    return bool(problems)


if __name__ == "__main__":
    run(main, __doc__)
