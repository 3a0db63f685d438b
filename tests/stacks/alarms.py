"""What watches and tells: alarms, event rules and the budget of resolved stacks, the metrics that they and the dashboard use, and
the runbooks."""

import functools
import json
import re

import yaml

from resolve import ROOT, of_type

PAGES = ROOT / "docs" / "guides" / "runbooks"
HEADINGS = ["Seen", "Check", "Fix", "If that fails"]
ALARM, COMPOSITE, RULE, BUDGET = (
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::Events::Rule",
    "AWS::Budgets::Budget",
)
KINDS = {"alarm": ALARM, "composite": COMPOSITE, "rule": RULE, "budget": BUDGET}
HERE = ROOT / "tests" / "stacks"


@functools.cache
def table():
    """The rows of alarms.yaml by name."""
    return {row["name"]: row for row in yaml.safe_load((HERE / "alarms.yaml").read_text())}


@functools.cache
def metrics_of_aws():
    """Namespace → metric → sets of dimensions."""
    listed = yaml.safe_load((HERE / "aws-metrics.yaml").read_text())
    return {
        namespace: {name: [frozenset(one) for one in dimensions] for name, dimensions in metrics.items()}
        for namespace, metrics in listed.items()
    }


def watchers(resolved):
    """Triples of logical id, kind as alarms.yaml has it and resource, of the stacks of one environment. Of event rules those
    that tell a person."""
    for stack in resolved.values():
        for kind, of in KINDS.items():
            for name, resource in of_type(stack, of):
                if kind == "rule" and not topics_of(kind, resource):
                    continue
                yield name, kind, resource, stack["Stack"]


def topics_of(kind, resource):
    """The ARNs of the SNS topics that hear of it."""
    properties = resource["Properties"]
    if kind == "rule":
        arns = [target["Arn"] for target in properties.get("Targets", [])]
    elif kind == "budget":
        notifications = properties.get("NotificationsWithSubscribers", [])
        arns = [who["Address"] for one in notifications for who in one["Subscribers"] if who["SubscriptionType"] == "SNS"]
    else:
        arns = properties.get("AlarmActions", [])
    return {arn for arn in arns if arn.startswith("arn:aws:sns:")}


def description_of(kind, resource):
    properties = resource["Properties"]
    return properties.get("Description" if kind == "rule" else "AlarmDescription", "")


def metrics_of(alarm):
    """The metrics of an alarm: (namespace, name, statistic, dimensions)."""
    properties = alarm["Properties"]
    if "MetricName" in properties:
        statistic = properties.get("ExtendedStatistic") or properties.get("Statistic")
        yield properties["Namespace"], properties["MetricName"], statistic, _dimensions(properties)
    for one in properties.get("Metrics", []):
        if "MetricStat" in one:
            metric = one["MetricStat"]["Metric"]
            yield metric["Namespace"], metric["MetricName"], one["MetricStat"]["Stat"], _dimensions(metric)
        yield from _searched(one.get("Expression", ""))


def _dimensions(metric):
    return {dimension["Name"]: dimension["Value"] for dimension in metric.get("Dimensions", [])}


def _searched(expression):
    """Of SEARCH('{Salebell,environment,service} MetricName="a"', 'Sum'): a without values."""
    for schema, rest, statistic in re.findall(r"SEARCH\('\{([^}]*)\}([^']*)', *'([^']*)'", expression):
        namespace, *dimensions = [part.strip() for part in schema.split(",")]
        given = dict(re.findall(r"(\w+)=\"([^\"]*)\"", rest))
        yield namespace, given.pop("MetricName", None), statistic, {name: given.get(name) for name in dimensions}
    # Of Metrics Insights: SELECT SUM(a) FROM SCHEMA(Salebell, environment, kind) WHERE environment = 'prod'.
    query = r"SELECT (\w+)\((\w+)\) FROM SCHEMA\(([^)]*)\)([^;]*)"
    for statistic, name, schema, rest in re.findall(query, expression.replace('"', "")):
        namespace, *dimensions = [part.strip() for part in schema.split(",")]
        given = dict(re.findall(r"(\w+) *= *'([^']*)'", rest))
        yield namespace, name, statistic.capitalize(), {name: given.get(name) for name in dimensions}


def metrics_of_dashboard(resource):
    """The same of a dashboard, whose body repeats the metric before by "." and "...", and without a statistic."""
    for widget in json.loads(resource["Properties"]["DashboardBody"])["widgets"]:
        before = []
        for row in widget.get("properties", {}).get("metrics", []):
            words = [word for word in row if isinstance(word, str)]
            for options in (word for word in row if isinstance(word, dict)):
                yield from _searched(options.get("expression", ""))
            if not words:
                continue
            if words[0] == "...":
                words = before[: len(before) - len(words) + 1] + words[1:]
            words = [before[index] if word == "." else word for index, word in enumerate(words)]
            before = words
            yield words[0], words[1], None, dict(zip(words[2::2], words[3::2], strict=True))


def all_metrics(resolved):
    """Pairs of a label and a metric, of everything that one environment looks at."""
    for stack in resolved.values():
        for name, resource in of_type(stack, ALARM):
            for metric in metrics_of(resource):
                yield f"{name}", metric
        for name, resource in of_type(stack, "AWS::CloudWatch::Dashboard"):
            for metric in metrics_of_dashboard(resource):
                yield f"{name} (dashboard)", metric


def pages():
    """Runbook → its text, all but the index."""
    return {path.stem: path.read_text() for path in sorted(PAGES.glob("*.md")) if path.stem != "README"}


def page_of(text):
    """The runbook that a description ends in, such as `balancer-5xx`."""
    found = re.search(r"Runbook: docs/guides/runbooks/([a-z0-9-]+)\.md$", text.strip())
    return found and found[1]
