"""Every alarm is in the table of alarms.yaml and as it says, looks at a metric that is there, tells somebody, and leads to a
runbook that helps."""

import re

import alarms
import reference
from resolve import ENVIRONMENTS, of_type

# These look at everything, so mutants that are about something else would often be theirs too.
MUTANTS = {"alarms.yaml"}


def topics(resolved):
    """ARN → `urgent` or `ordinary`."""
    outputs = resolved["foundation"]["Outputs"]
    return {outputs["UrgentTopicArn"]["Value"]: "urgent", outputs["OrdinaryTopicArn"]["Value"]: "ordinary"}


def rows_of(resolved):
    """Pairs of what the templates have and its row in the table, both in one environment."""
    return [(name, kind, resource, alarms.table().get(name)) for name, kind, resource, _ in alarms.watchers(resolved)]


# P6: metrics


def test_our_metrics_are_those_that_the_program_tells(stacks):
    problems = set()
    for environment in ENVIRONMENTS:
        for label, (namespace, name, _, dimensions) in alarms.all_metrics(stacks.resolved(environment)):
            if namespace != "Salebell":
                continue
            expected = reference.metrics().get(name)
            if name not in reference.metrics():
                problems.add(f"{label}: docs/reference/metrics.md has no {name}")
            elif expected is None:
                problems.add(f"{label}: {name} does not go to CloudWatch")
            elif set(dimensions) != expected:
                problems.add(f"{label}: {name} is told by {sorted(expected)}, not by {sorted(dimensions)}")
            if dimensions.get("environment", environment) not in (environment, None):
                problems.add(f"{label}: {name} is that of {dimensions['environment']} in {environment}")
            for key, value in dimensions.items():
                # A gauge of another pool, an outcome that does not exist: it would wait for ever.
                if key != "environment" and value is not None and value not in reference.label_values(name, key):
                    problems.add(f"{label}: {name} never has {key}={value}")
    assert not problems


def test_metrics_of_aws_are_listed_with_their_dimensions(stacks):
    problems = set()
    for environment in ENVIRONMENTS:
        for label, (namespace, name, _, dimensions) in alarms.all_metrics(stacks.resolved(environment)):
            if namespace != "Salebell" and frozenset(dimensions) not in alarms.metrics_of_aws().get(namespace, {}).get(name, []):
                problems.add(f"{label}: {namespace} {name} by {sorted(dimensions)} is not in aws-metrics.yaml")
    assert not problems


def test_the_firewall_is_asked_by_the_names_of_its_metrics(stacks):
    for environment in ENVIRONMENTS:
        resolved = stacks.resolved(environment)
        lists = [one for stack in resolved.values() for _, one in of_type(stack, "AWS::WAFv2::WebACL")]
        names = {one["Properties"]["VisibilityConfig"]["MetricName"] for one in lists}
        for label, (namespace, _, _, dimensions) in alarms.all_metrics(resolved):
            if namespace == "AWS/WAFV2":
                assert dimensions["WebACL"] in names, f"{label} in {environment}: {dimensions['WebACL']} is none of {names}"


def test_the_group_tells_the_metrics_that_are_looked_at(stacks):
    """Metrics of a group are only there when the group collects them."""
    for environment in ENVIRONMENTS:
        resolved = stacks.resolved(environment)
        collected = {}
        for stack in resolved.values():
            for name, group in of_type(stack, "AWS::AutoScaling::AutoScalingGroup"):
                of_group = group["Properties"].get("MetricsCollection", [])
                collected[stack["Refs"][name]] = {metric for one in of_group for metric in one.get("Metrics", ["all"])}
        for label, (namespace, name, _, dimensions) in alarms.all_metrics(resolved):
            if namespace == "AWS/AutoScaling":
                of_group = collected[dimensions["AutoScalingGroupName"]]
                assert of_group & {name, "all"}, f"{label} in {environment}: the group does not collect {name}"


# The table


def test_prod_has_every_alarm_of_the_table_and_no_other(stacks):
    resolved = stacks.resolved("prod")
    there = {(name, kind, stack) for name, kind, _, stack in alarms.watchers(resolved)}
    wanted = {(row["name"], row.get("kind", "alarm"), row["stack"]) for row in alarms.table().values()}
    optional = {one for one in wanted if alarms.table()[one[0]].get("optional")}
    assert there - wanted == set()
    assert wanted - there - optional == set()


def test_optional_alarms_come_with_what_they_watch(stacks):
    """Each is there with some value of some parameter, and then keeps to the table as the others do."""
    seen = {}
    for label, resolved in stacks.variants():
        for name, kind, resource, _ in alarms.watchers({resolved["Stack"]: resolved}):
            if alarms.table().get(name, {}).get("optional"):
                seen.setdefault(name, (label, kind, resource, resolved["Parameters"]))
    assert {row["name"] for row in alarms.table().values() if row.get("optional")} == set(seen)
    for name, (label, kind, resource, parameters) in seen.items():
        assert kind == "alarm" and not list(differences(alarms.table()[name], resource["Properties"], parameters)), label


def test_dev_and_stage_have_half_as_many(stacks):
    prod = {name for name, *_ in alarms.watchers(stacks.resolved("prod"))}
    for environment in ("dev", "stage"):
        there = {name for name, *_ in alarms.watchers(stacks.resolved(environment))}
        wanted = {row["name"] for row in alarms.table().values() if row.get("everywhere")}
        assert {name for name in there ^ wanted if not alarms.table().get(name, {}).get("optional")} == set(), environment
        assert len(there) <= len(prod) * 0.55, environment


def test_each_alarm_tells_somebody(stacks):
    problems = []
    for environment in ENVIRONMENTS:
        resolved = stacks.resolved(environment)
        names = topics(resolved)
        for name, kind, resource, row in rows_of(resolved):
            heard = {names.get(arn, arn) for arn in alarms.topics_of(kind, resource)}
            severity = row["severity"] if row else "unknown"
            wanted = {
                "none": set(),
                "urgent": {"urgent" if environment == "prod" else "ordinary"},
                "ordinary": {"ordinary"},
                # Of one topic to the other, in every environment: it would not arrive by its own.
                "other": {"ordinary" if name.endswith("Urgent") else "urgent"},
            }.get(severity)
            if heard != wanted:
                problems.append(f"{name} in {environment} tells {heard or 'nobody'}, and should tell {wanted or 'nobody'}")
            if kind in ("alarm", "composite") and resource["Properties"].get("ActionsEnabled", True) not in (True, "true"):
                problems.append(f"{name} in {environment}: its actions are off")
    assert not problems


def test_what_fails_at_a_topic_is_told_by_the_other(stacks):
    for environment in ENVIRONMENTS:
        resolved = stacks.resolved(environment)
        outputs = resolved["foundation"]["Outputs"]
        watched = set()
        for name, kind, resource, _ in alarms.watchers(resolved):
            for namespace, metric, _, dimensions in alarms.metrics_of(resource) if kind == "alarm" else ():
                if (namespace, metric) == ("AWS/SNS", "NumberOfNotificationsFailed"):
                    heard = {arn.rsplit(":", 1)[1] for arn in alarms.topics_of(kind, resource)}
                    assert heard and dimensions["TopicName"] not in heard, f"{name} in {environment}"
                    watched.add(dimensions["TopicName"])
        assert watched == {outputs["UrgentTopicName"]["Value"], outputs["OrdinaryTopicName"]["Value"]}, environment


def test_alarms_fire_when_the_table_says(stacks):
    problems = []
    for environment in ENVIRONMENTS:
        resolved = stacks.resolved(environment)
        for name, kind, resource, _ in alarms.watchers(resolved):
            row = alarms.table().get(name)
            if kind == "alarm" and row:
                parameters = {key: value for one in resolved.values() for key, value in one["Parameters"].items()}
                found = differences(row, resource["Properties"], parameters)
                problems += [f"{name} in {environment}: {one}" for one in found]
    assert not problems


def test_a_canary_that_was_left_is_told_after_longer_than_a_rollout_needs_it(stacks):
    """6 minutes to come up, 10 and twice 10 more to serve, and 10 for all instances; a quarter of that for CloudFormation."""
    for environment in ENVIRONMENTS:
        resolved = stacks.resolved(environment)
        left = resolved["alarms"]["Resources"]["CanaryLeft"]["Properties"]
        ((_, _, _, dimensions),) = alarms.metrics_of({"Properties": left})
        assert dimensions == {"AutoScalingGroupName": resolved["service"]["Refs"]["CanaryGroup"]}, environment
        minutes = int(left["Period"]) * int(left["EvaluationPeriods"]) / 60
        assert (6 + 10 + 20 + 10) * 1.25 < minutes <= 60, environment


OPERATORS = {
    ">": "GreaterThanThreshold",
    ">=": "GreaterThanOrEqualToThreshold",
    "<": "LessThanThreshold",
    "<=": "LessThanOrEqualToThreshold",
}


def differences(row, properties, parameters):
    """What an alarm has that is not as the row says."""
    used = list(alarms.metrics_of({"Properties": properties}))
    if {name for _, name, _, _ in used} != set(row["metrics"]):
        yield f"looks at {sorted({name for _, name, _, _ in used})}"
    if "statistic" in row and row["statistic"] not in {statistic for _, name, statistic, _ in used if name == row["metrics"][0]}:
        yield f"is not the {row['statistic']} of {row['metrics'][0]}"
    if "fires" in row:
        operator, threshold = row["fires"].split(maxsplit=1)
        if properties.get("ComparisonOperator") != OPERATORS[operator]:
            yield f"compares by {properties.get('ComparisonOperator')}"
        is_there = float(properties.get("Threshold", "nan"))
        # A number, a parameter, or a share of what the row names, which is looked at in test_shares.
        if threshold in parameters:
            threshold = parameters[threshold]
        if re.fullmatch(r"[0-9.]+", str(threshold)) and is_there != float(threshold):
            yield f"fires at {is_there:g}"
    if "floor" in row:
        expressions = " ".join(one.get("Expression", "") for one in properties.get("Metrics", []))
        if not re.search(rf"> {row['floor']}\b", expressions):
            yield f"does not leave out what is no more than {row['floor']}: {expressions!r}"
    if "periods" in row:
        wanted, of = row["periods"].split(" of ")
        evaluated = str(properties.get("EvaluationPeriods"))
        if (str(properties.get("DatapointsToAlarm", evaluated)), evaluated) != (wanted, of):
            yield f"wants {properties.get('DatapointsToAlarm', evaluated)} of {evaluated} periods"
    periods = {one["MetricStat"]["Period"] for one in properties.get("Metrics", []) if "MetricStat" in one}
    periods |= {one["Period"] for one in properties.get("Metrics", []) if "Period" in one}
    periods |= {properties["Period"]} if "Period" in properties else set()
    if {str(period) for period in periods} != {str(row.get("period", 60))}:
        yield f"has a period of {sorted(map(str, periods))} s"
    if properties.get("TreatMissingData", "missing") != row.get("missing", "notBreaching"):
        yield f"takes missing data for {properties.get('TreatMissingData', 'missing')}"
    if row.get("missing") == "breaching" and "WarmUpConfiguration" not in properties:
        yield "fires as soon as its stack is made, before there can be a figure"
    if "low_samples" in row and properties.get("EvaluateLowSampleCountPercentile") != row["low_samples"]:
        yield "evaluates few samples too"


def test_the_memory_of_a_process_is_told_before_its_limit(stacks):
    """systemd ends a process at MemoryMax=, so an alarm must be below, and holds it back from MemoryHigh= on."""
    units = alarms.ROOT / "systemd" / "system"
    for name, unit in (("ProcessMemoryApi", "salebell-api"), ("ProcessMemoryWorker", "salebell-worker")):
        high = int(re.search(r"^MemoryHigh=(\d+)%", (units / f"{unit}.service").read_text(), re.M)[1])
        percent = int(re.search(r"> (\d+) % of memory", alarms.table()[name]["fires"])[1])
        assert percent < high, name
        for kind in stacks.templates["service"]["Parameters"]["InstanceType"]["AllowedValues"]:
            alarm = stacks.resolved("prod", InstanceType=kind)[alarms.table()[name]["stack"]]["Resources"][name]
            share = 100 * float(alarm["Properties"]["Threshold"]) / (GIBIBYTES[kind] * 2**30)
            assert abs(share - percent) < 1, f"{name} on {kind}: {share:.0f} %"


# Of each type that the stack allows, as EC2 describes it.
GIBIBYTES = {
    "t4g.small": 2, "t4g.medium": 4, "t4g.large": 8, "m7g.medium": 4, "m7g.large": 8, "c7g.large": 4,
    "t3.small": 2, "t3.medium": 4, "m7i.large": 8,
}  # fmt: skip


def test_a_boot_that_failed_is_told_under_its_environment():
    """The unit that gives a machine up runs without settings, and would tell its metric under `local`."""
    unit = (alarms.ROOT / "systemd/system/salebell-boot-failed.service").read_text()
    assert "EnvironmentFile=-/etc/salebell/instance.env" in unit
    assert re.search(r"^ExecStart=/usr/bin/env SALEBELL_TELEMETRY__ENVIRONMENT=\$\{SALEBELL_ENVIRONMENT\} /usr/bin/salebell ", unit, re.M)


# Gates


def test_gates_are_made_of_alarms_that_are_there(stacks):
    for environment in ENVIRONMENTS:
        for stack in stacks.resolved(environment).values():
            names = {stack["Names"][name] for name, _ in of_type(stack, alarms.ALARM, alarms.COMPOSITE)}
            for name, gate in of_type(stack, alarms.COMPOSITE):
                rule = gate["Properties"]["AlarmRule"]
                children = re.findall(r"\b(?:ALARM|OK|INSUFFICIENT_DATA)\s*\(\s*[\"']?([^\"')]+?)[\"']?\s*\)", rule)
                children = {child.rsplit(":alarm:", 1)[-1] for child in children}
                assert children and children <= names, f"{name} in {environment}: {children - names or rule}"
                # What it says without data would hold up every rollout.
                assert "INSUFFICIENT_DATA" not in rule, name


# P7: runbooks


def test_each_description_ends_in_its_runbook(stacks):
    problems = []
    for environment in ENVIRONMENTS:
        for name, kind, resource, row in rows_of(stacks.resolved(environment)):
            if kind == "budget" or row is None:
                continue
            page = alarms.page_of(alarms.description_of(kind, resource))
            if page != row["page"]:
                problems.append(f"{name} in {environment} leads to {page}, not to {row['page']}")
            for target in resource["Properties"].get("Targets", []) if kind == "rule" else []:
                text = (target.get("InputTransformer") or {}).get("InputTemplate", "")
                if f"docs/guides/runbooks/{row['page']}.md" not in text:
                    problems.append(f"{name} in {environment}: what it tells does not lead to {row['page']}")
            words = alarms.description_of(kind, resource).split("Runbook:")[0]
            if len(words.split()) < 4:
                problems.append(f"{name} in {environment} does not say what it means")
    assert not problems


def test_pages_and_alarms_are_one_to_one(stacks):
    told = {row["page"] for *_, row in rows_of(stacks.resolved("prod")) if row}
    assert told == set(alarms.pages())
