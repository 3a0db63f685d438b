"""What services of AWS do to resources of the templates by the resources' own policies: an alarm tells a topic, a topic
fills a queue, the balancer writes its logs. Each is derived from the templates, so that a new alarm or queue is asked for
by itself; what comes with such a request is in the service's documentation."""

import dataclasses

from access import STRANGER, encrypted
from resolve import REGION


NOTIFICATIONS = "codestar-notifications.amazonaws.com"


@dataclasses.dataclass(frozen=True)
class Deed:
    """A request of a service, or of a role of its own."""

    principal: str
    action: str
    resource: str
    context: tuple

    def __str__(self):
        return f"{self.principal}: {self.action} on {self.resource}"

    def by_a_stranger(self):
        """The same on behalf of somebody else's resource, where the service says whose it is."""
        keys = ("aws:SourceAccount", "aws:SourceArn", "kms:EncryptionContext:aws:logs:arn")
        changed = tuple((key, _elsewhere(value) if key in keys else value) for key, value in self.context)
        return dataclasses.replace(self, context=changed) if changed != self.context else None


def _elsewhere(value):
    fields = value.split(":")
    return STRANGER if len(fields) == 1 else ":".join([*fields[:4], STRANGER, *fields[5:]]) + "-of-a-stranger"


def deeds(world):
    """All of them in an environment."""
    yield from _publishers(world)
    yield from _subscriptions(world)
    yield from _log_groups(world)
    yield from _buckets(world)
    yield from _volumes(world)


def _source(world, arn):
    return ("aws:SourceAccount", world.account), ("aws:SourceArn", arn)


def _publish(world, principal, topic, source):
    """A service that puts a message on a topic, and what it needs of the topic's key."""
    yield Deed(principal, "sns:Publish", topic, source)
    if key := world.key_of(topic):
        # EventBridge does not say to KMS on whose behalf it asks; a condition on it loses each event.
        source = () if principal == "events.amazonaws.com" else source
        # What the pipelines' notifications ask for comes by way of SNS.
        source = (("kms:ViaService", f"sns.{REGION}.amazonaws.com"),) if principal == NOTIFICATIONS else source
        for action in ("kms:Decrypt", "kms:GenerateDataKey"):
            yield Deed(principal, action, key, (*source, ("kms:EncryptionContext:aws:sns:topicArn", topic)))


def _publishers(world):
    kinds = ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")
    for stack, id, properties in world.resources(*kinds):
        actions = [properties.get(key, []) for key in ("AlarmActions", "OKActions", "InsufficientDataActions")]
        for topic in {topic for group in actions for topic in group if topic.startswith("arn:aws:sns:")}:
            yield from _publish(world, "cloudwatch.amazonaws.com", topic, _source(world, world.arn(stack, id)))
    for stack, id, properties in world.resources("AWS::Events::Rule"):
        for target in properties.get("Targets", []):
            if target["Arn"].startswith("arn:aws:sns:"):
                yield from _publish(world, "events.amazonaws.com", target["Arn"], _source(world, world.arn(stack, id)))
    for stack, id, properties in world.resources("AWS::Budgets::Budget"):
        for notification in properties.get("NotificationsWithSubscribers", []):
            for subscriber in notification["Subscribers"]:
                if subscriber["SubscriptionType"] == "SNS":
                    name = world.stacks[stack]["Names"][id]
                    source = _source(world, f"arn:aws:budgets::{world.account}:budget/{name}")
                    yield from _publish(world, "budgets.amazonaws.com", subscriber["Address"], source)
    for stack, _, properties in world.resources("AWS::CodeStarNotifications::NotificationRule"):
        for target in properties["Targets"]:
            # It says whose rule it is, and not which.
            yield from _publish(world, NOTIFICATIONS, target["TargetAddress"], (("aws:SourceAccount", world.stacks[stack]["Account"]),))
    for stack, id, properties in world.resources("AWS::RDS::EventSubscription"):
        name = world.stacks[stack]["Names"][id]
        source = _source(world, f"arn:aws:rds:{REGION}:{world.account}:es:{name}")
        yield from _publish(world, "events.rds.amazonaws.com", properties["SnsTopicArn"], source)


def _subscriptions(world):
    for _, _, properties in world.resources("AWS::SNS::Subscription"):
        queue = properties.get("Endpoint", "")
        if properties["Protocol"] == "sqs" and queue.split(":")[4:5] == [world.account]:
            source = _source(world, properties["TopicArn"])
            # What cannot be delivered goes to a queue of its own.
            dead = properties.get("RedrivePolicy", {}).get("deadLetterTargetArn")
            for target in filter(None, (queue, dead)):
                yield Deed("sns.amazonaws.com", "sqs:SendMessage", target, source)
                if key := world.key_of(target):
                    for action in ("kms:Decrypt", "kms:GenerateDataKey"):
                        context = (*source, ("kms:EncryptionContext:aws:sqs:arn", target))
                        yield Deed("sns.amazonaws.com", action, key, context)


def faults(world):
    """What no policy shows: a target of EventBridge with a role. By EventBridge's guide events are lost on their way to an
    encrypted topic then; the topic's and the key's policies are to allow them."""
    for stack, id, properties in world.resources("AWS::Events::Rule"):
        for target in properties.get("Targets", []):
            if target["Arn"].startswith("arn:aws:sns:") and "RoleArn" in target:
                yield f"{stack}/{id}: its target {target['Id']} is a topic and has a RoleArn"


def _log_groups(world):
    for stack, id, properties in world.resources("AWS::Logs::LogGroup"):
        if key := world.key(properties.get("KmsKeyId")):
            context = (("kms:EncryptionContext:aws:logs:arn", world.arn(stack, id).removesuffix(":*")),)
            for action in ("Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "GenerateDataKey"):
                yield Deed(f"logs.{REGION}.amazonaws.com", f"kms:{action}", key, context)


def _write(world, principal, bucket, path, source, acl=False):
    """A service that puts files into a bucket, and what it needs of the bucket's key."""
    arn = f"arn:aws:s3:::{bucket}"
    context = (*source, ("s3:x-amz-acl", "bucket-owner-full-control")) if acl else source
    yield Deed(principal, "s3:PutObject", f"{arn}/{path}", context)
    if key := world.key_of(arn):
        # Large files are put together of parts, which are read.
        for action in ("kms:Decrypt", "kms:GenerateDataKey"):
            yield Deed(principal, action, key, (*source, ("kms:EncryptionContext:aws:s3:arn", encrypted(arn))))


def _buckets(world):
    account = world.account
    for stack, id, properties in world.resources("AWS::ElasticLoadBalancingV2::LoadBalancer"):
        attributes = {one["Key"]: str(one["Value"]) for one in properties.get("LoadBalancerAttributes", [])}
        for kind in ("access_logs", "connection_logs", "health_check_logs"):
            if attributes.get(f"{kind}.s3.enabled") == "true":
                prefix = attributes.get(f"{kind}.s3.prefix", "")
                path = f"{prefix + '/' if prefix else ''}AWSLogs/{account}/elasticloadbalancing/x"
                # It does not say on whose behalf: the path does, and the service writes to no other account's.
                bucket = attributes[f"{kind}.s3.bucket"]
                yield from _write(world, "logdelivery.elasticloadbalancing.amazonaws.com", bucket, path, ())
    for stack, id, properties in world.resources("AWS::S3::Bucket"):
        if logging := properties.get("LoggingConfiguration"):
            source = ("aws:SourceAccount", world.stacks[stack]["Account"]), ("aws:SourceArn", world.arn(stack, id))
            path = f"{logging.get('LogFilePrefix', '')}2026-11-29-x"
            yield from _write(world, "logging.s3.amazonaws.com", logging["DestinationBucketName"], path, source)
    for stack, id, properties in world.resources("AWS::CloudTrail::Trail"):
        bucket, source = properties["S3BucketName"], _source(world, world.arn(stack, id))[1:]
        prefix = f"{properties['S3KeyPrefix']}/" if properties.get("S3KeyPrefix") else ""
        yield Deed("cloudtrail.amazonaws.com", "s3:GetBucketAcl", f"arn:aws:s3:::{bucket}", source)
        path = f"{prefix}AWSLogs/{account}/CloudTrail/x"
        context = (*source, ("s3:x-amz-acl", "bucket-owner-full-control"))
        yield Deed("cloudtrail.amazonaws.com", "s3:PutObject", f"arn:aws:s3:::{bucket}/{path}", context)
        if key := world.key(properties.get("KMSKeyId")):
            trail = source[0][1]
            encryption = ("kms:EncryptionContext:aws:cloudtrail:arn", trail)
            yield Deed("cloudtrail.amazonaws.com", "kms:GenerateDataKey", key, (*source, encryption))
            yield Deed("cloudtrail.amazonaws.com", "kms:DescribeKey", key, source)
    for _, _, properties in world.resources("AWS::Config::DeliveryChannel"):
        bucket, source = properties["S3BucketName"], (("aws:SourceAccount", account),)
        prefix = f"{properties['S3KeyPrefix']}/" if properties.get("S3KeyPrefix") else ""
        for action in ("s3:GetBucketAcl", "s3:ListBucket"):
            yield Deed("config.amazonaws.com", action, f"arn:aws:s3:::{bucket}", source)
        yield from _write(world, "config.amazonaws.com", bucket, f"{prefix}AWSLogs/{account}/Config/x", source, acl=True)
    for _, _, properties in world.resources("AWS::EC2::FlowLog"):
        destination = properties.get("LogDestination", "")
        if properties.get("LogDestinationType") == "s3":
            bucket, _, path = destination.removeprefix("arn:aws:s3:::").partition("/")
            source = _source(world, f"arn:aws:logs:{REGION}:{account}:*")
            for action in ("s3:GetBucketAcl", "s3:ListBucket"):
                yield Deed("delivery.logs.amazonaws.com", action, f"arn:aws:s3:::{bucket}", source)
            hive = properties.get("DestinationOptions", {}).get("HiveCompatiblePartitions")
            below = "aws-account-id={}/aws-service=vpcflowlogs" if hive in (True, "true") else "{}/vpcflowlogs"
            path = f"{path.rstrip('/') + '/' if path else ''}AWSLogs/{below.format(account)}/x"
            yield from _write(world, "delivery.logs.amazonaws.com", bucket, path, source, acl=True)


# What launches instances. It has no right of its own to any key.
LAUNCHER = "arn:aws:iam::{}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"


def _volumes(world):
    """A group launches instances whose volumes are encrypted: without the key none of them starts."""
    groups = [properties for _, _, properties in world.resources("AWS::AutoScaling::AutoScalingGroup")]
    launchers = {group.get("ServiceLinkedRoleARN", LAUNCHER.format(world.account)) for group in groups}
    keys = {
        world.key(mapping["Ebs"]["KmsKeyId"])
        for _, _, properties in world.resources("AWS::EC2::LaunchTemplate")
        for mapping in properties["LaunchTemplateData"].get("BlockDeviceMappings", [])
        if "KmsKeyId" in mapping.get("Ebs", {})
    }
    actions = "Encrypt Decrypt ReEncryptFrom ReEncryptTo GenerateDataKey GenerateDataKeyWithoutPlaintext DescribeKey CreateGrant"
    for launcher in sorted(launchers):
        for key in sorted(keys):
            for action in actions.split():
                context = {
                    "aws:PrincipalArn": launcher,
                    "aws:PrincipalAccount": world.account,
                    "kms:CallerAccount": world.account,
                    "kms:ViaService": f"ec2.{REGION}.amazonaws.com",
                }
                if action == "CreateGrant":
                    context["kms:GrantIsForAWSResource"] = "true"
                yield Deed(launcher, f"kms:{action}", key, tuple(context.items()))
