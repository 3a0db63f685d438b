"""The stacks agree with the rest of the repository: the user data, and what the image takes for granted."""

import base64
import functools
import json
import tomllib

import reference
from resolve import ENVIRONMENTS, ROOT, of_type
from stacks import summary

DAY = 86_400


@functools.cache
def appliance():
    return tomllib.loads((ROOT / "systemd" / "salebell" / "appliance.toml").read_text())


def each(stacks, *kinds):
    """Every resource of some types in everything that can be deployed: its name, its properties, and where it is so."""
    types = {resource["Type"] for template in stacks.templates.values() for resource in template["Resources"].values()}
    assert types & set(kinds), f"there is no {kinds}"
    for label, resolved in stacks.news():
        for name, resource in of_type(resolved, *kinds):
            yield f"{resolved['Stack']}, {name}", resource["Properties"], label


def test_user_data_are_the_script_of_the_repository(stacks):
    script = (ROOT / "userdata" / "first-boot.sh").read_text()
    problems = []
    for name, properties, where in each(stacks, "AWS::EC2::LaunchTemplate"):
        given = base64.b64decode(properties["LaunchTemplateData"].get("UserData", "")).decode()
        if given.strip() != script.strip():
            problems.append((name, where))
    assert not problems, summary(problems)


def test_hooks_have_the_names_that_the_image_knows(stacks):
    transitions = {
        "autoscaling:EC2_INSTANCE_LAUNCHING": appliance()["instance"]["launch_hook"],
        "autoscaling:EC2_INSTANCE_TERMINATING": appliance()["instance"]["termination_hook"],
    }
    problems = []
    for name, properties, where in each(stacks, "AWS::AutoScaling::AutoScalingGroup"):
        hooks = properties.get("LifecycleHookSpecificationList", [])
        found = {hook["LifecycleTransition"]: hook["LifecycleHookName"] for hook in hooks}
        if found != transitions:
            problems.append((f"{name}: {found}", where))
    assert not problems, summary(problems)


def test_log_groups_are_those_of_the_agent(stacks):
    """With the agent's retention, too: it would set another one anew at each launch."""
    path = ROOT / "packer/files/opt/aws/amazon-cloudwatch-agent/etc/amazon-cloudwatch-agent.json"
    files = json.loads(path.read_text())["logs"]["logs_collected"]["files"]["collect_list"]
    wanted = {file["log_group_name"]: file["retention_in_days"] for file in files}
    problems = []
    for environment in ENVIRONMENTS:
        made = {
            resource["Properties"]["LogGroupName"]: resource["Properties"]["RetentionInDays"]
            for resolved in stacks.resolved(environment).values()
            for _, resource in of_type(resolved, "AWS::Logs::LogGroup")
            if "LogGroupName" in resource["Properties"]
        }
        problems += [(name, environment) for name, days in wanted.items() if int(made.get(name, 0)) != days]
    assert not problems, summary(problems)


def test_targets_are_where_the_program_listens(stacks):
    server = appliance()["server"]
    ports = {"GRPC": server["grpc_listen"], "HTTP1": server["listen"], "HTTP2": server["listen"]}
    problems = []
    for name, properties, where in each(stacks, "AWS::ElasticLoadBalancingV2::TargetGroup"):
        version = properties.get("ProtocolVersion", "HTTP1")
        if str(properties["Port"]) != ports[version].rsplit(":", 1)[1]:
            problems.append((f"{name}: port {properties['Port']}", where))
        grpc = version == "GRPC"
        # /readyz depends on the database: a failover would have the whole group replaced.
        path = "/grpc.health.v1.Health/Check" if grpc else "/healthz"
        if properties["HealthCheckPath"] != path:
            problems.append((f"{name}: {properties['HealthCheckPath']}", where))
        matcher = properties.get("Matcher", {})
        if str(matcher.get("GrpcCode" if grpc else "HttpCode")) != ("0" if grpc else "200"):
            problems.append((f"{name}: {matcher}", where))
    assert not problems, summary(problems)


def test_the_program_is_more_patient_than_the_balancer(stacks):
    problems, idle_timeout = [], int(reference.settings()["server.idle_timeout_s"])
    for name, properties, where in each(stacks, "AWS::ElasticLoadBalancingV2::TargetGroup"):
        seen = int(properties["HealthCheckIntervalSeconds"]) * int(properties["UnhealthyThresholdCount"])
        if not seen < appliance()["server"]["linger_s"]:
            problems.append((f"{name}: {seen} s until a target is seen to stop, and it lingers no longer", where))
        if not 3 * seen <= appliance()["instance"]["dead_man_s"]:
            problems.append((f"{name}: {seen} s, and the dead man's switch fires within three times that", where))
    for name, properties, where in each(stacks, "AWS::ElasticLoadBalancingV2::LoadBalancer"):
        attributes = {one["Key"]: one["Value"] for one in properties["LoadBalancerAttributes"]}
        if not int(attributes.get("idle_timeout.timeout_seconds", 60)) < idle_timeout:
            problems.append((f"{name}: connections idle for longer than the program keeps them", where))
    assert not problems, summary(problems)


def test_hooks_wait_longer_than_a_heartbeat(stacks):
    """And not much: it is how long an instance counts that is dead."""
    problems = []
    for name, properties, where in each(stacks, "AWS::AutoScaling::AutoScalingGroup"):
        for hook in properties.get("LifecycleHookSpecificationList", []):
            if not 60 <= int(hook.get("HeartbeatTimeout", 3600)) <= 300:
                problems.append((f"{name}: {hook}", where))
    assert not problems, summary(problems)


def test_the_queue_is_as_the_program_wants_it(stacks):
    """docs/guides/bus-on-aws.md, Topics and queues."""
    problems, lease = [], int(reference.settings()["worker.lease_s"])
    for name, properties, where in each(stacks, "AWS::SQS::Queue"):
        if "Prices" not in name:
            continue
        if int(properties.get("MessageRetentionPeriod", 0)) != 14 * DAY:
            problems.append((f"{name}: messages do not wait for 14 days", where))
        if "RedrivePolicy" in properties:
            if int(properties.get("VisibilityTimeout", 30)) != lease:
                problems.append((f"{name}: the visibility time-out is not worker.lease_s", where))
            if int(properties.get("ReceiveMessageWaitTimeSeconds", 0)) != 20:
                problems.append((f"{name}: no long polling", where))
    for name, properties, where in each(stacks, "AWS::SNS::Subscription"):
        if properties["Protocol"] == "sqs" and "Prices" in name and properties.get("RawMessageDelivery") not in (True, "true"):
            problems.append((f"{name}: messages come wrapped", where))
    assert not problems, summary(problems)
