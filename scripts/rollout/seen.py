"""Reads the state of the service, anew at each call."""

import datetime
import email.utils
import itertools
import re
import time

import settings
import steps
from botocore import exceptions
from cloud import FAILURES, Refusal, outputs, say

# Time in seconds after which unanswered calls to AWS are no longer retried (enough to log in again), and the pause
# between two calls.
PATIENCE_S, PAUSE_S = 600, 10
# Errors that a retry does not change.
FINAL = re.compile("AccessDenied|Unauthorized(Operation|Access)|ValidationError")

# States of a refresh that has not ended.
# https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_InstanceRefresh.html
UNDER_WAY = ("Pending", "InProgress", "Baking", "Cancelling", "RollbackInProgress")

# Outputs that the stack must have, as 60-service.yaml does.
OUTPUTS = set("LiveGroup CanaryGroup LaunchTemplateId ServiceGate CanaryGate CanaryHttpTargetGroup CanaryGrpcTargetGroup".split())
PARAMETERS = {f"{whose}{what}" for whose in ("", "Canary") for what in ("ImageId", "SettingsHash")}
PARAMETERS |= {"CanaryInstances", "CanaryWeight", "Gates", "Rollout", "InServiceDuringRoll", "InstanceType", "MaxSize"}


class World:
    """The stack of the service in one environment, and all that a rollout must know about it."""

    def __init__(self, account):
        self.account, self.name = account, f"{account.prefix}service"
        self.partition = account.caller.split(":")[1]

    def stack(self):
        """The stack, and AWS's time. Limits must not depend on a wrong clock of this machine."""
        answer = self.account.cloudformation.describe_stacks(StackName=self.name)
        date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
        now = email.utils.parsedate_to_datetime(date) if date else datetime.datetime.now(datetime.UTC)
        return answer["Stacks"][0], now

    def look(self, image):
        """All of it, as steps.decide() wants it. `image` is that of the goal."""
        stack, now = self.stack()
        made = outputs(stack)
        parameters = parameters_of(stack)
        since = stack.get("LastUpdatedTime", stack["CreationTime"])
        groups = [made["LiveGroup"], made["CanaryGroup"]]
        found = self.account.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=groups)["AutoScalingGroups"]
        live, canary = (next((one for one in found if one["AutoScalingGroupName"] == name), {}) for name in groups)
        suspended = [one["ProcessName"] for group in (live, canary) for one in group.get("SuspendedProcesses", [])]
        refresh = self.refresh(made)
        return steps.Seen(
            now=now,
            status=stack["StackStatus"],
            since=since,
            parameters=parameters,
            gates={gate: alarm["StateValue"] for gate, alarm in self.gates(made).items()},
            image=self.image(image),
            settings=settings.settings_hash(self.account),
            refresh=refresh["Status"] if refresh.get("Status") in UNDER_WAY else "",
            suspended=tuple(dict.fromkeys(suspended)),
            desired=live.get("DesiredCapacity", 1),
            healthy=self.healthy(made, canary),
            requests=self.requests(made, since, now) if parameters["CanaryWeight"] != "0" else 0,
        )

    def refresh(self, made):
        """The last refresh of the live group, which the stack's outputs name."""
        client, name = self.account.client("autoscaling"), made["LiveGroup"]
        found = client.describe_instance_refreshes(AutoScalingGroupName=name, MaxRecords=1)["InstanceRefreshes"]
        return found[0] if found else {}

    def gates(self, made):
        """The alarms that are gates, by their name in the template."""
        names = {made[gate]: gate for gate in ("ServiceGate", "CanaryGate")}
        kinds = ["CompositeAlarm", "MetricAlarm"]
        found = self.account.client("cloudwatch").describe_alarms(AlarmNames=[*names], AlarmTypes=kinds)
        return {names[one["AlarmName"]]: one for one in found.get("CompositeAlarms", []) + found.get("MetricAlarms", [])}

    def image(self, image_id):
        """The relevant fields of an image; empty if there is none."""
        try:
            images = self.account.client("ec2").describe_images(ImageIds=[image_id])["Images"]
        except self.account.client("ec2").exceptions.ClientError as error:
            if "InvalidAMIID" not in str(error):
                raise
            images = []
        if not images:
            return {}
        one, tags = images[0], {tag["Key"]: tag["Value"] for tag in images[0].get("Tags", [])}
        # An account with which an image is shared does not see its tags, but its name ends in the same commit.
        named = re.fullmatch(r"salebell-[^-]+-([0-9a-f]+)", one.get("Name", ""))
        version = tags.get("Version") or (named[1] if named else "")
        return {"State": one["State"], "Architecture": one["Architecture"], "Version": version, "Name": one.get("Name", "")}

    def healthy(self, made, group):
        """Whether the canary's one instance, of the launch template as it is now, is in service and healthy in both groups."""
        ready = [one for one in group.get("Instances", []) if one["LifecycleState"] == "InService"]
        ready = [one["InstanceId"] for one in ready if version(one) == version(group)]
        return len(ready) == 1 and all(ready[0] in self.well(made[kind]) for kind in ("CanaryHttpTargetGroup", "CanaryGrpcTargetGroup"))

    def well(self, target_group):
        account = self.account
        arn = f"arn:{self.partition}:elasticloadbalancing:{account.region}:{account.number}:{target_group}"
        found = account.client("elbv2").describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
        return [one["Target"]["Id"] for one in found if one["TargetHealth"]["State"] == "healthy"]

    def requests(self, made, since, now):
        """That the canary has answered, over HTTP and gRPC. Figures come a minute or two late."""
        balancer = outputs(self.account.stack(f"{self.account.prefix}edge")).get("BalancerFullName", "none")
        queries = [
            {
                "Id": kind.lower(),
                "MetricStat": {
                    "Stat": "Sum",
                    "Period": 60,
                    "Metric": {
                        "Namespace": "AWS/ApplicationELB",
                        "MetricName": "RequestCount",
                        "Dimensions": [
                            {"Name": "LoadBalancer", "Value": balancer},
                            {"Name": "TargetGroup", "Value": made[f"Canary{kind}TargetGroup"]},
                        ],
                    },
                },
            }
            for kind in ("Http", "Grpc")
        ]
        until = now + datetime.timedelta(minutes=1)
        of = {"MetricDataQueries": queries, "StartTime": since.replace(second=0, microsecond=0), "EndTime": until}
        return int(sum(sum(one["Values"]) for one in self.account.pages("cloudwatch", "get_metric_data", "MetricDataResults", **of)))

    def progress(self):
        """Prints the progress of the live group's refresh, whenever it has changed; for ChangeSet.execute()."""
        shown = [self.progress_line()]

        def show(_):
            if (line := self.progress_line()) and line != shown[-1]:
                say(f"    {line}")
                shown.append(line)

        return show

    def progress_line(self):
        one = self.refresh(outputs(self.account.stack(self.name)))
        if not one:
            return ""
        reason = f": {one['StatusReason']}" if one.get("StatusReason") else ""
        return f"the live group's refresh is {one['Status']}, {one.get('PercentageComplete', 0)} %{reason}"


def patiently(look):
    """Reads the state, although AWS may not answer for a while."""
    begun = time.monotonic()
    for _ in itertools.count():
        try:
            return look()
        except FAILURES as error:
            code = error.response["Error"]["Code"] if isinstance(error, exceptions.ClientError) else ""
            if FINAL.search(code) or time.monotonic() - begun > PATIENCE_S:
                raise
            say(f"    {error}\n    asks again, for {PATIENCE_S // 60} minutes", "yellow")
            time.sleep(PAUSE_S)


def parameters_of(stack):
    return {one["ParameterKey"]: one["ParameterValue"] for one in stack.get("Parameters", [])}


def version(one):
    """Id and version of the launch template of a group or an instance."""
    return [one.get("LaunchTemplate", {}).get(key) for key in ("LaunchTemplateId", "Version")]


def world(account):
    """The existing service, or a refusal."""
    if account.environment == "tools":
        raise Refusal("ENV= must be dev, stage or prod: there is no service in the account of the pipelines")
    one = World(account)
    there = account.stack(one.name)
    if not there or there["StackStatus"] in ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "CREATE_FAILED", "ROLLBACK_FAILED"):
        raise Refusal(f"there is no service to roll: make deploy ENV={account.environment} comes first")
    if missing := sorted(OUTPUTS - outputs(there).keys()) + sorted(PARAMETERS - parameters_of(there).keys()):
        raise Refusal(f"{one.name} has no {', '.join(missing)}: make deploy ENV={account.environment} STACK=service comes first")
    return one
