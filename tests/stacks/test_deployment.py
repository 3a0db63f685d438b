"""All stacks deployed by the operator's command into an emulated AWS, read back, changed, broken and deleted. Tests here are
one story and run in their order. What MiniStack does not show is in
docs/reference/assumptions.md."""

import hashlib
import ipaddress
import json
import os
import pathlib
import re
import shutil

import boto3
import botocore.config
import pytest

import resolve
import rollouts
import stubs
import templates
from deployment import AWAY
from emulator import REGION, ROOT, until

# Beside that of the page, the first.
IMAGES = (None, "ami-0123456789abcdef1", "ami-0123456789abcdef2")
CHANGE = re.compile(r"^    ([-+!~?]) (\w+) (AWS::\S+)( .*)?$", re.M)


def names():
    return [name for name in map(templates.name, templates.paths()) if name not in templates.TOOLS]


def changes(said, stack):
    """What a deploy said that it changes in a stack. Without what it lists only because it names the group, which
    CloudFormation cannot yet know to keep its name."""
    part = said.split(f"==> salebell-dev-{stack}\n")[1].split("==> ")[0]
    return {name for _, name, _, why in CHANGE.findall(part) if " by LiveGroup" not in why}


def test_nothing_is_deployed_before_the_placeholders_are_filled_in(dev):
    other = {"AWS_ACCESS_KEY_ID": "111111111111"}
    for environment in resolve.ENVIRONMENTS:
        said = dev.emulator.run("deploy", f"--environment={environment}", "--yes", code=1, **other)
        for name in ("foundation: OrdinaryEmail", "edge: DomainName", "service: ImageId"):
            assert f"{name} is still the placeholder" in said
    keys = {"aws_access_key_id": "111111111111", "aws_secret_access_key": "test"}
    client = boto3.client(
        "cloudformation", endpoint_url=dev.emulator.endpoint, region_name=REGION, **keys,
        config=botocore.config.Config(user_agent_appid="tests"),
    )  # fmt: skip
    assert client.list_stacks()["StackSummaries"] == []


def test_all_stacks_come_up(dev):
    for name in names():
        assert dev.stack(name)["StackStatus"] == "CREATE_COMPLETE", name
    said = dev.block("7. The service", "image=").said
    assert re.findall(r"^==> salebell-dev-(\w+)", said, re.M) == names()


def test_a_second_run_changes_nothing(dev):
    said = dev.deploy()
    assert said.count("    nothing to change\n") == len(names()) and not CHANGE.findall(said), said


def test_the_emulator_is_reachable_from_this_machine_alone(dev):
    inodes = set()
    for link in pathlib.Path(f"/proc/{dev.emulator.process.pid}/fd").iterdir():
        if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)):
            inodes.add(found[1])
    listening = []
    for table, state in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")]:
        for line in pathlib.Path(f"/proc/{dev.emulator.process.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and fields[3] == state:
                listening.append((table, fields[1]))
    assert listening == [("tcp", f"0100007F:{dev.emulator.port:04X}")]


def test_subnets_lie_in_the_network_side_by_side_in_three_zones(dev):
    network, ec2 = dev.outputs("network"), dev.client("ec2")
    block = ipaddress.ip_network(network["VpcCidr"])
    tiers = {tier: network[tier].split(",") for tier in ("PublicSubnets", "PrivateSubnets", "DataSubnets")}
    subnets = {one["SubnetId"]: one for one in ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [network["VpcId"]]}])["Subnets"]}
    assert sorted(subnets) == sorted(sum(tiers.values(), [])) and len(subnets) == 9
    blocks = [ipaddress.ip_network(one["CidrBlock"]) for one in subnets.values()]
    assert all(one.subnet_of(block) for one in blocks)
    assert not any(one.overlaps(other) for index, one in enumerate(blocks) for other in blocks[:index])
    for ids in tiers.values():
        assert len({subnets[one]["AvailabilityZone"] for one in ids}) == 3
    assert not any(subnets[one]["MapPublicIpOnLaunch"] for one in tiers["PrivateSubnets"] + tiers["DataSubnets"])


def test_public_subnets_reach_the_internet_private_ones_by_nat_and_data_nothing(dev):
    network, resources = dev.outputs("network"), dev.resources("network")
    tables = dev.client("ec2").describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [network["VpcId"]]}])["RouteTables"]
    by_subnet = {link["SubnetId"]: table for table in tables for link in table["Associations"] if "SubnetId" in link}

    def ways(tier):
        """Where each subnet of a tier sends what is not for the network."""
        return {
            route.get("NatGatewayId") or route.get("GatewayId")
            for subnet in network[tier].split(",")
            for route in by_subnet[subnet]["Routes"]
            if route.get("DestinationCidrBlock") == "0.0.0.0/0"
        }

    assert ways("PublicSubnets") == {resources["InternetGateway"]}
    assert ways("PrivateSubnets") and ways("PrivateSubnets") <= set(resources.values()) - {resources["InternetGateway"]}
    assert ways("DataSubnets") == set()
    endpoints = dev.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    s3 = next(one for one in endpoints if one["ServiceName"].endswith(".s3"))
    assert {by_subnet[one]["RouteTableId"] for one in network["PrivateSubnets"].split(",")} <= set(s3["RouteTableIds"])


def test_keys_rotate_and_their_policies_name_services(dev):
    kms, foundation = dev.client("kms"), dev.outputs("foundation")
    aliases = {one["AliasName"]: one.get("TargetKeyId") for one in kms.list_aliases()["Aliases"]}
    for kind in ("Data", "Bus", "Logs"):
        arn = foundation[f"{kind}KeyArn"]
        assert kms.get_key_rotation_status(KeyId=arn)["KeyRotationEnabled"], kind
        assert aliases[f"alias/salebell-dev-{kind.lower()}"] == arn.rsplit("/", 1)[1]
        policy = json.loads(kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"])
        assert all(one.get("Principal") != "*" or "Condition" in one for one in policy["Statement"])
        assert "kms:ViaService" in json.dumps(policy) or "Service" in json.dumps(policy)


def test_buckets_are_closed(dev):
    s3, foundation, data = dev.client("s3"), dev.outputs("foundation"), dev.outputs("data")
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    assert there == {foundation[f"{kind}Bucket"] for kind in ("BalancerLogs", "Archive", "Records")} | {data["FilesBucket"]}
    for bucket in there:
        closed = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
        assert set(closed.values()) == {True}, bucket
        policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
        denied = [one for one in policy["Statement"] if one["Effect"] == "Deny"]
        assert any(one["Condition"].get("Bool", {}).get("aws:SecureTransport") in ("false", False) for one in denied), bucket
        assert all(bucket in json.dumps(one["Resource"]) for one in policy["Statement"]), "a policy of another bucket"


def test_a_report_reaches_the_queue_and_is_dead_after_five_receipts(dev):
    sns, sqs, bus = dev.client("sns"), dev.client("sqs"), dev.outputs("bus")
    queue, dead = (sqs.get_queue_url(QueueName=bus[name])["QueueUrl"] for name in ("PricesQueueName", "PricesDeadQueueName"))
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert json.loads(attributes["RedrivePolicy"]) == {"deadLetterTargetArn": bus["PricesDeadQueueArn"], "maxReceiveCount": 5}
    policy = json.loads(attributes["Policy"])["Statement"]
    allowed = [one for one in policy if one["Effect"] == "Allow"]
    assert [one["Condition"]["ArnEquals"]["aws:SourceArn"] for one in allowed] == [bus["PricesTopicArn"]]
    for url in (queue, dead):
        got = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["KmsMasterKeyId", "MessageRetentionPeriod"])["Attributes"]
        assert got == {"KmsMasterKeyId": dev.outputs("foundation")["BusKeyArn"], "MessageRetentionPeriod": "1209600"}

    sns.publish(TopicArn=bus["PricesTopicArn"], Message='{"report": 1}')
    for receipt in range(5):
        got = sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0, WaitTimeSeconds=1)["Messages"]
        # As it was published: what SNS would wrap around it the worker does not take.
        assert [one["Body"] for one in got] == ['{"report": 1}'], receipt
    assert "Messages" not in sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0, WaitTimeSeconds=0)
    got = sqs.receive_message(QueueUrl=dead, VisibilityTimeout=0, WaitTimeSeconds=1)["Messages"]
    assert [one["Body"] for one in got] == ['{"report": 1}']


def test_another_team_gets_the_events_that_it_asked_for(dev):
    sns, sqs, bus = dev.client("sns"), dev.client("sqs"), dev.outputs("bus")

    def publish(kind, currency, backfill="false"):
        attributes = {"kind": kind, "currency": currency, "backfill": backfill}
        typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        sns.publish(TopicArn=bus["EventsTopicArn"], Message=f"{kind} {currency} {backfill}", MessageAttributes=typed)

    publish("sale.started", "USD")
    publish("sale.ended", "EUR")
    publish("sale.started", "EUR", "true")
    publish("sale.started", "EUR")
    publish("sale.deepened", "EUR")
    got = []
    until(lambda: got.extend(receive(sqs, bus["ExampleQueueUrl"])) or len(got) >= 2, "two events")
    assert sorted(got) == ["sale.deepened EUR false", "sale.started EUR false"]
    assert receive(sqs, bus["ExampleQueueUrl"]) == []


def receive(sqs, url):
    return [one["Body"] for one in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages", [])]


def test_an_instance_can_read_its_settings(dev):
    dev.give_webhook_keys()
    dev.check_settings()


def test_settings_name_what_was_made(dev):
    settings, data, bus, edge = dev.settings(), dev.outputs("data"), dev.outputs("bus"), dev.outputs("edge")
    sqs = dev.client("sqs")
    assert data["WriterEndpoint"] in settings["database/url"]
    assert settings["files/s3_bucket"] == data["FilesBucket"]
    assert settings["bus/prices_topic"] == bus["PricesTopicArn"] and settings["bus/events_topic"] == bus["EventsTopicArn"]
    for name, queue in [("bus/prices_queue", "PricesQueueName"), ("bus/prices_dead_queue", "PricesDeadQueueName")]:
        # It is localhost in one and 127.0.0.1 in the other.
        assert settings[name].split("/")[3:] == sqs.get_queue_url(QueueName=bus[queue])["QueueUrl"].split("/")[3:]
    assert settings["auth/alb/arn"] == edge["BalancerArn"]
    assert [one["issuer"] for one in json.loads(settings["auth/issuers"])] == [edge["Issuer"]]
    proxies = {ipaddress.ip_network(one) for one in re.split(r"[,\s]+", settings["server/trusted_proxies"])}
    assert proxies == {ipaddress.ip_network(one) for one in dev.outputs("network")["PublicCidrs"].split(",")}
    assert settings["webhook/encryption_keys"] == f"secret:{dev.resources('data')['WebhookSecret']}"


def settings_hash(settings):
    """Computed once more, by the words of docs/guides/settings-on-aws.md."""
    live = {"database/url", "database/reader_url", "database/user", "database/password", "webhook/encryption_keys", "auth/issuers"}
    lines = [f"{name}={value}\n" for name, value in sorted(settings.items()) if name not in live]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def test_the_launch_template_has_image_hash_and_careful_metadata(dev):
    for kind in ("LiveGroup", "CanaryGroup"):
        data = dev.launched(kind)["LaunchTemplateData"]
        assert data["ImageId"] == dev.shell.parameters()["ImageId"]
        options = data["MetadataOptions"]
        assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
        assert options["InstanceMetadataTags"] == "enabled"
        assert settings_hash(dev.settings()) in json.dumps(data["TagSpecifications"])
        assert data["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]
        assert "KeyName" not in data
    assert dev.group("CanaryGroup")["MaxSize"] == dev.group("CanaryGroup")["MinSize"] == 0


def test_the_balancer_logs_drops_bad_headers_and_speaks_modern_tls(dev):
    elb, edge = dev.client("elbv2"), dev.outputs("edge")
    listed = elb.describe_load_balancer_attributes(LoadBalancerArn=edge["BalancerArn"])["Attributes"]
    attributes = {one["Key"]: one["Value"] for one in listed}
    logs = dev.outputs("foundation")["BalancerLogsBucket"]
    for kind in ("access_logs", "connection_logs", "health_check_logs"):
        assert (attributes[f"{kind}.s3.enabled"], attributes[f"{kind}.s3.bucket"]) == ("true", logs), kind
    assert attributes["routing.http.drop_invalid_header_fields.enabled"] == "true"
    assert attributes["routing.http.desync_mitigation_mode"] == "defensive"
    assert attributes["deletion_protection.enabled"] == "false", "dev can be destroyed"
    listeners = {one["Port"]: one for one in elb.describe_listeners(LoadBalancerArn=edge["BalancerArn"])["Listeners"]}
    assert set(listeners) == {80, 443, 9000}
    redirect = listeners[80]["DefaultActions"][0]["RedirectConfig"]
    assert (redirect["StatusCode"], redirect["Protocol"]) == ("HTTP_301", "HTTPS")
    for port in (443, 9000):
        assert listeners[port]["SslPolicy"].startswith("ELBSecurityPolicy-TLS13-1-")
        assert listeners[port]["DefaultActions"][0]["FixedResponseConfig"]["StatusCode"] == "404"


def test_targets_are_checked_where_the_program_answers(dev):
    found = dev.client("elbv2").describe_target_groups()["TargetGroups"]
    checks = sorted((one["Port"], one["Protocol"], one["HealthCheckPath"], one["HealthCheckIntervalSeconds"]) for one in found)
    assert checks == [(8443, "HTTPS", "/healthz", 10)] * 2 + [(9000, "HTTPS", "/grpc.health.v1.Health/Check", 10)] * 2


def test_the_rules_of_443_come_in_their_order(dev):
    rules = dev.client("elbv2").describe_rules(ListenerArn=dev.outputs("edge")["HttpsListenerArn"])["Rules"]
    order = [one["Priority"] for one in rules]
    assert sorted(int(one) for one in order if one != "default") == [10, 20, 30, 31, 40, 41]
    for rule in rules:
        wanted = "forward" if rule["Priority"] != "default" else "fixed-response"
        assert rule["Actions"][-1]["Type"] == wanted, rule["Priority"]


def test_alarms_are_there_with_runbook_and_the_topic_that_is_heard(dev):
    pages = dev.client("cloudwatch").get_paginator("describe_alarms").paginate()
    there = {one["AlarmName"]: one for page in pages for one in page["MetricAlarms"]}
    expected, foundation = set(), dev.outputs("foundation")
    ordinary, urgent = foundation["OrdinaryTopicArn"], foundation["UrgentTopicArn"]
    for stack in names():
        made = dev.resources(stack)
        resolved = resolve.resolve(stack, "dev", {**dev.values} if stack == "bus" else None)
        for name, alarm in resolve.of_type(resolved, "AWS::CloudWatch::Alarm"):
            if "Metrics" not in alarm["Properties"]:
                expected.add(made[name])
                got = there[made[name]]
                assert got["AlarmDescription"] == alarm["Properties"]["AlarmDescription"], name
                assert re.search(r"Runbook: docs/guides/runbooks/[a-z0-9-]+\.md$", got["AlarmDescription"]), name
                # That the ordinary topic does not deliver, the other one must say.
                if name != "AlertsUndeliveredOrdinary":
                    assert urgent not in got["AlarmActions"], f"{name} wakes somebody because of dev"
    ours = {name for name in there if not name.startswith("TargetTracking-")}
    assert ours == expected and len(expected) > 10
    assert any(ordinary in there[name]["AlarmActions"] for name in ours)


def test_status_sees_the_fleet(dev):
    said = dev.block("7. The service", "make status").said
    for name in names():
        assert re.search(rf"^    {name} CREATE_COMPLETE ", said, re.M), name
        assert re.search(rf"^    {name} IN_SYNC", said, re.M), said
    # MiniStack launches nothing for a group that CloudFormation has made, and takes an address of mail for confirmed.
    wrong = re.findall(r"^  ! (.*)", said, re.M)
    assert [line for line in wrong if "instances" not in line and "REACHES NOBODY" not in line] == [], said


def test_another_image_changes_the_launch_template_and_the_group_alone(dev):
    before, resources = dev.launched(), dev.resources("service")
    dev.values["ImageId"] = IMAGES[1]
    said = dev.deploy()
    assert dev.resources("service") == resources, "something was replaced"
    assert changes(said, "service") == {"LaunchTemplate", "LiveGroup"}
    assert said.count("    nothing to change\n") == len(names()) - 1
    after = dev.launched()
    assert after["LaunchTemplateId"] == before["LaunchTemplateId"]
    assert after["VersionNumber"] == before["VersionNumber"] + 1
    assert after["LaunchTemplateData"]["ImageId"] == IMAGES[1]
    assert dev.launched("CanaryGroup")["LaunchTemplateData"]["ImageId"] == dev.shell.parameters()["ImageId"]


def test_another_setting_rolls_the_group_and_one_that_changes_live_does_not(dev):
    before = dev.launched()
    said = dev.deploy(LogLevel="debug")
    assert dev.settings()["log/level"] == "debug"
    assert changes(said, "service") == {"LaunchTemplate", "LiveGroup"}
    after = dev.launched()
    assert after["VersionNumber"] == before["VersionNumber"] + 1
    assert settings_hash(dev.settings()) in json.dumps(after["LaunchTemplateData"]["TagSpecifications"])
    # By hand, as an operator points the service at a restored database.
    url = dev.settings()["database/url"]
    dev.client("ssm").put_parameter(Name="/salebell/dev/database/url", Value=f"{url}&x=1", Type="String", Overwrite=True)
    said = dev.deploy(LogLevel="debug")
    assert changes(said, "service") == set() and dev.launched()["VersionNumber"] == after["VersionNumber"]
    said = dev.emulator.run("status", "--environment=dev", code=1)
    assert re.search(r"^  ! data: \w+ MODIFIED /Value", said, re.M), said
    dev.client("ssm").put_parameter(Name="/salebell/dev/database/url", Value=url, Type="String", Overwrite=True)
    dev.values["LogLevel"] = "debug"


def test_a_template_deploy_keeps_the_image_that_was_rolled_out(dev):
    del dev.values["ImageId"]
    said = dev.deploy()
    assert said.count("    nothing to change\n") == len(names())
    assert dev.launched()["LaunchTemplateData"]["ImageId"] == IMAGES[1]


def test_an_image_is_rolled_out_and_taken_back_and_nothing_is_replaced(dev, tmp_path):
    """The commands on the stacks themselves; each thing that can go wrong is in test_rollout_commands.py."""
    world, resources = rollouts.World(tmp_path / "world.json", Operator(dev)), dev.resources("service")
    said = re.split(r"^==> \d\d:", world.rollout("--migrated"), flags=re.M)
    changed = [{name for _, name, _, why in CHANGE.findall(step) if " by LiveGroup" not in why} for step in said]
    rules = {"ApiKeyRule", "BrowserRule", "GrpcRule", "LoginRule", "PageRule", "PublicRule", "TokenRule"}
    canary, live = {"CanaryGroup", "CanaryLaunchTemplate"}, {"LiveGroup", "LaunchTemplate"}
    assert changed == [set(), canary, rules, rules, live, {"CanaryGroup"}, set()]
    assert dev.launched()["LaunchTemplateData"]["ImageId"] == rollouts.GOOD
    said = world.run("rollback", "--yes", f"--image={rollouts.OLD}")
    assert f"{IMAGES[1]} by make deploy" in said and f"{rollouts.GOOD} by make rollout" in said
    assert dev.launched()["LaunchTemplateData"]["ImageId"] == rollouts.OLD
    assert dev.resources("service") == resources, "something was replaced"
    assert "! Gates IS off" in dev.emulator.run("status", "--environment=dev", code=1)
    dev.deploy(ImageId=IMAGES[1], CanaryImageId=IMAGES[0])


class Operator:
    """As the stand-in wants the commands and clients of an account."""

    def __init__(self, dev):
        self.client, self.emulator = dev.client, dev.emulator

    def run(self, program, *words, **more):
        return self.emulator.call(program, "--environment=dev", *words, **more)


def test_a_broken_change_is_rolled_back_and_the_old_version_stands(dev, tmp_path):
    before, weight = dev.launched(), dev.stack("service")["Parameters"]
    folder = tmp_path / "cloudformation"
    shutil.copytree(templates.FOLDER, folder)
    path = next(folder.glob("*-service.yaml"))
    # Of a file system that is not there; after the group, so that there is something to roll back.
    broken = """Resources:
  Broken:
    Type: AWS::EFS::MountTarget
    DependsOn: LiveGroup
    Properties: { FileSystemId: fs-0123456789abcdef0, SubnetId: subnet-0, SecurityGroups: [sg-0] }
"""
    path.write_text(path.read_text().replace("\nResources:\n", f"\n{broken}", 1))
    words = ["--environment=dev", "--yes", "--stack=service", f"--folder={folder}", f"ImageId={IMAGES[2]}"]
    said = dev.emulator.run("deploy", *words, code=1)
    assert "salebell-dev-service is in UPDATE_ROLLBACK_COMPLETE, because of\n    Broken (AWS::EFS::MountTarget): " in said
    assert dev.stack("service")["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    after = dev.launched()
    assert (after["VersionNumber"], after["LaunchTemplateData"]["ImageId"]) == (before["VersionNumber"], IMAGES[1])
    assert dev.stack("service")["Parameters"] == weight
    assert "Broken" not in dev.resources("service")
    assert re.search(r"^  ! service UPDATE_ROLLBACK_COMPLETE", dev.emulator.run("status", "--environment=dev", code=1), re.M)
    # The next change goes through again.
    dev.values["ImageId"] = IMAGES[2]
    dev.deploy()
    assert dev.launched()["LaunchTemplateData"]["ImageId"] == IMAGES[2]


def test_the_emulator_still_loses_what_is_asserted_on_the_template(dev):
    """Each row of the table in docs/reference/assumptions.md. What MiniStack has learnt belongs into this file."""
    elb, cloudformation, service = dev.client("elbv2"), dev.client("cloudformation"), dev.resources("service")
    group, targets = dev.group("LiveGroup"), {one["TargetGroupArn"]: one for one in elb.describe_target_groups()["TargetGroups"]}
    actions = {name: elb.describe_rules(RuleArns=[service[name]])["Rules"][0]["Actions"] for name in ("ApiKeyRule", "TokenRule")}
    forwards = actions["ApiKeyRule"][-1].get("ForwardConfig", {}).get("TargetGroups", [])
    grpc = targets[service["LiveGrpcTargetGroup"]]
    hooks = dev.client("autoscaling").describe_lifecycle_hooks(AutoScalingGroupName=group["AutoScalingGroupName"])
    bucket = dev.outputs("data")["FilesBucket"]
    encryption = dev.client("s3").get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    secret = dev.client("secretsmanager").list_secret_version_ids(SecretId=dev.resources("data")["WebhookSecret"], IncludeDeprecated=True)["Versions"]
    change_set = {"StackName": "salebell-dev-bus", "ChangeSetName": "probe"}
    triggers = {"RollbackTriggers": [], "MonitoringTimeInMinutes": 7}
    body = "Resources: { Probe: { Type: AWS::SNS::Topic } }"
    cloudformation.create_change_set(**change_set, TemplateBody=body, RollbackConfiguration=triggers)
    lost = {
        "weights of forwards": len([one for one in forwards if "Weight" in one]) < 2,
        "`jwt-validation`": not any("JwtValidationConfig" in one for one in actions["TokenRule"]),
        "gRPC version and matcher": (grpc.get("ProtocolVersion"), grpc["Matcher"]) != ("GRPC", {"GrpcCode": "0"}),
        "hooks": hooks["LifecycleHooks"] == [],
        "maintenance policy, lifetime and warm-up": not {"InstanceMaintenancePolicy", "MaxInstanceLifetime"} & set(group),
        "target groups of the group": not group.get("TargetGroupARNs") and group["Instances"] == [],
        "update policy": dev.refreshes() == [],
        "encryption and lifecycle of buckets": encryption["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256",
        "what a generated secret is made of": len(secret) > 1,
        "rollback triggers": "RollbackConfiguration" not in cloudformation.describe_change_set(**change_set),
        "suspended processes": dev.suspend() is None,
    }
    cloudformation.delete_change_set(**change_set)
    assert all(lost.values()), [what for what, still in lost.items() if not still]
    page = (ROOT / "docs/reference/assumptions.md").read_text().split("## Asserted on the template instead\n")[1]
    assert re.findall(r"^\| ([^|]+) \| .* \| .*::", page, re.M) == list(lost)


def test_all_goes_in_reverse_but_what_is_kept_by_name(dev):
    kept = {}
    for stack in names():
        template, made = templates.load(next(path for path in templates.paths() if templates.name(path) == stack)), dev.resources(stack)
        for name, resource in template["Resources"].items():
            if resource.get("DeletionPolicy", "Delete") != "Delete" and name in made:
                kept[made[name]] = resource["Type"]
    away = dev.block(AWAY, "make destroy")
    dev.shell.run(away)
    assert not away.failed and not away.missing(), away.said
    said = away.said
    assert re.findall(r"^==> salebell-dev-(\w+)", said, re.M) == names()[::-1]
    told = dict(re.findall(r"^    AWS::\S+ (\S+) (stays|goes)", said.split("==> all is gone")[1], re.M))
    assert set(told) == set(kept)
    summaries = dev.client("cloudformation").list_stacks()["StackSummaries"]
    assert {one["StackStatus"] for one in summaries} == {"DELETE_COMPLETE"}
    left = dict(everything(dev))
    assert left == {kind: sorted(name for name, of in kept.items() if of == kind) for kind in left}
    snapshots = dev.client("rds").describe_db_cluster_snapshots()["DBClusterSnapshots"]
    assert [one["DBClusterIdentifier"] for one in snapshots] == [name for name, state in told.items() if state == "goes"]


def everything(dev):
    """What is left in the account, by type."""

    def listed(service, operation, part, name=None, **arguments):
        found = getattr(dev.client(service), operation)(**arguments).get(part, [])
        return sorted(one[name] if name else one for one in found)

    yield "AWS::S3::Bucket", listed("s3", "list_buckets", "Buckets", "Name")
    yield "AWS::Logs::LogGroup", listed("logs", "describe_log_groups", "logGroups", "logGroupName")
    yield "AWS::KMS::Key", listed("kms", "list_keys", "Keys", "KeyId")
    yield "AWS::SecretsManager::Secret", listed("secretsmanager", "list_secrets", "SecretList", "Name")
    yield "AWS::SSM::Parameter", sorted(dev.settings())
    yield "AWS::SQS::Queue", listed("sqs", "list_queues", "QueueUrls")
    yield "AWS::SNS::Topic", listed("sns", "list_topics", "Topics", "TopicArn")
    yield "AWS::SNS::Subscription", listed("sns", "list_subscriptions", "Subscriptions", "SubscriptionArn")
    # What the administrator's command has made is the account's.
    roles = listed("iam", "list_roles", "Roles", "RoleName")
    yield "AWS::IAM::Role", [one for one in roles if not one.startswith("AWSServiceRoleFor")]
    yield "AWS::IAM::ManagedPolicy", listed("iam", "list_policies", "Policies", "Arn", Scope="Local")
    yield "AWS::IAM::InstanceProfile", listed("iam", "list_instance_profiles", "InstanceProfiles", "InstanceProfileName")
    yield "AWS::RDS::DBInstance", listed("rds", "describe_db_instances", "DBInstances", "DBInstanceIdentifier")
    yield "AWS::EFS::FileSystem", listed("efs", "describe_file_systems", "FileSystems", "FileSystemId")
    yield "AWS::CloudWatch::Alarm", listed("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName")
    yield "AWS::Events::Rule", listed("events", "list_rules", "Rules", "Name")
    yield "AWS::KinesisFirehose::DeliveryStream", listed("firehose", "list_delivery_streams", "DeliveryStreamNames")
    yield "AWS::AutoScaling::AutoScalingGroup", listed("autoscaling", "describe_auto_scaling_groups", "AutoScalingGroups", "AutoScalingGroupName")
    yield "AWS::EC2::LaunchTemplate", listed("ec2", "describe_launch_templates", "LaunchTemplates", "LaunchTemplateId")
    ours = [{"Name": "is-default", "Values": ["false"]}]
    yield "AWS::EC2::VPC", listed("ec2", "describe_vpcs", "Vpcs", "VpcId", Filters=ours)
    yield "AWS::ElasticLoadBalancingV2::LoadBalancer", listed("elbv2", "describe_load_balancers", "LoadBalancers", "LoadBalancerArn")
    yield "AWS::ElasticLoadBalancingV2::TargetGroup", listed("elbv2", "describe_target_groups", "TargetGroups", "TargetGroupArn")
    yield "AWS::CertificateManager::Certificate", listed("acm", "list_certificates", "CertificateSummaryList", "CertificateArn")
    yield "AWS::Cognito::UserPool", listed("cognito-idp", "list_user_pools", "UserPools", "Id", MaxResults=10)
    yield "AWS::WAFv2::WebACL", listed("wafv2", "list_web_acls", "WebACLs", "ARN", Scope="REGIONAL")


def test_it_comes_up_again_by_the_other_choices_and_takes_over_what_was_kept(dev):
    logs = dev.client("logs")
    logs.create_log_stream(logGroupName="/salebell/access", logStreamName="of-before")
    said = dev.deploy(MasterAuthentication="secret", DatabaseLogin="secret", FileStore="efs")
    for name in ("AccessLog", "ApplicationLog", "SystemLog", "MetricsLog", "SessionsLog", "WafLog"):
        assert f"+ {name} AWS::Logs::LogGroup is there already and taken over" in said
    assert {dev.stack(name)["StackStatus"] for name in names()} == {"CREATE_COMPLETE"}
    assert logs.describe_log_streams(logGroupName="/salebell/access")["logStreams"]
    settings = dev.settings()
    assert re.fullmatch(r"secret:arn:\S+:secret:rds!cluster-\S+#password", settings["database/password"])
    assert settings["files/store"] == "directory" and settings["files/mounted"] == "true"
    dev.give_webhook_keys()
    dev.check_settings()


def test_what_is_stubbed_is_used_and_explained():
    types = {one["Type"] for template in templates.stacks().values() for one in template["Resources"].values()}
    assert sorted(set(stubs.STUBS) - types) == [], "no template has it any more"
    assert all(reason for _, reason in stubs.STUBS.values()) and all(stubs.PARTS.values())


def test_a_stub_for_what_the_emulator_has_learnt_is_refused():
    with pytest.raises(SystemExit, match="MiniStack makes AWS::SQS::Queue by now"):
        stubs.register({"AWS::SQS::Queue": {}}, {"AWS::SQS::Queue": ((), "a reason")}, {})
    with pytest.raises(SystemExit, match="AWS::CloudWatch::Alarm with Metrics by now"):
        stubs.register({"AWS::CloudWatch::Alarm": {"create": lambda *words: None}}, {}, stubs.PARTS)
