"""Computes what an environment costs in a month, from cloudformation/prices.toml, the templates and the parameter files, and
writes the tables of docs/reference/cost.md. Works offline: the prices are those of that file."""

import sys
import tomllib

import deployed
import templates

PAGE = templates.ROOT / "docs/reference/cost.md"
ENVIRONMENTS = ("dev", "stage", "prod")


def read():
    path = templates.FOLDER / "prices.toml"
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise templates.Refusal(f"{path}: {error}") from None


def zones(network):
    return len(network.parameters["Zones"].split(","))


def alarms(stacks):
    """Number of metrics in alarms, counting each one of a formula, with the two alarms that each scaling policy makes."""
    count = 0
    for stack in stacks.values():
        for alarm in stack.of("AWS::CloudWatch::Alarm"):
            count += sum("MetricStat" in one for one in alarm.get("Metrics", [])) or 1
        count += 2 * len(stack.of("AWS::AutoScaling::ScalingPolicy"))
    return count


def count(stacks, kind):
    return sum(len(stack.of(kind)) for stack in stacks.values())


def estimate(environment, changed=None):
    """Rows of the table: a name, what it is here, and its parts: the names of prices with how many units of each a month needs."""
    book, stacks = read(), deployed.stacks(environment, changed)
    use, month = book["usage"][environment], book["hours"]
    network, data, edge, service = (stacks[name] for name in ("network", "data", "edge", "service"))
    instances = int(service.parameters["MinSize"])
    template = service.of("AWS::EC2::LaunchTemplate")[0]["LaunchTemplateData"]
    volume = template["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]
    databases = len(data.of("AWS::RDS::DBInstance"))
    at_rest = max(float(data.parameters["MinCapacity"]), use["database-capacity-awake"])
    # One address for the balancer, and one for the NAT, in each of their zones.
    nat_zones = {"regional": zones(network), "single": 1, "none": 0}[network.parameters["NatMode"]]
    endpoints = sum(one.get("VpcEndpointType") == "Interface" for one in network.of("AWS::EC2::VPCEndpoint")) * zones(network)
    monitored = 7 * template["Monitoring"]["Enabled"]  # metrics by the minute, which are paid for like ours
    recorders = [one["RecordingMode"]["RecordingFrequency"].lower() for one in stacks["foundation"].of("AWS::Config::ConfigurationRecorder")]
    rows = [
        ("instances", f"{instances} × {service.parameters['InstanceType']}, each with {volume} GB", [
            (service.parameters["InstanceType"], instances * month), ("volume-gp3", instances * volume)]),
        ("database", f"{databases} × {at_rest:g} capacity units for {use['database-hours-awake']} hours", [
            ("database-capacity", databases * at_rest * use["database-hours-awake"]), ("database-storage", use["database-gb"]),
            ("database-io", use["database-io-millions"]), ("database-backup", use["database-backup-gb"])]),
        ("load balancer", f"{use['balancer-capacity']:g} of its capacity units", [
            ("balancer", month * count(stacks, "AWS::ElasticLoadBalancingV2::LoadBalancer")), ("balancer-capacity", month * use["balancer-capacity"])]),
        ("public addresses", f"of the load balancer {zones(network)}, of the NAT {nat_zones}", [("address", (zones(network) + nat_zones) * month)]),
        ("NAT", f"{network.parameters['NatMode']}, {use['nat-gb']} GB", [
            ("nat", nat_zones * month), ("nat-traffic", use["nat-gb"] * bool(nat_zones))]),
        ("interface endpoints", str(endpoints), [("endpoint", endpoints * month)]),
        ("traffic", f"{use['out-gb']} GB out, {use['between-zones-gb']} GB between zones", [
            ("traffic-out", max(0, use["out-gb"] - 100)), ("traffic-between-zones", use["between-zones-gb"])]),
        ("firewall, log-ins, DNS", f"{use['requests-millions']} million requests", [
            ("firewall", count(stacks, "AWS::WAFv2::WebACL")), ("firewall-rule", sum(len(one["Rules"]) for one in edge.of("AWS::WAFv2::WebACL"))),
            ("firewall-requests", use["requests-millions"]), ("dns-queries", use["requests-millions"]),
            ("login-client", sum("client_credentials" in one["AllowedOAuthFlows"] for one in edge.of("AWS::Cognito::UserPoolClient")))]),
        ("metrics", f"{use['metrics']} of ours, {monitored} of each instance", [("metric", use["metrics"] + monitored * instances)]),
        ("alarms, dashboard", f"{count(stacks, 'AWS::CloudWatch::Alarm')} alarms, most of one metric", [
            ("alarm", alarms(stacks)), ("alarm-composite", count(stacks, "AWS::CloudWatch::CompositeAlarm")),
            ("dashboard", count(stacks, "AWS::CloudWatch::Dashboard"))]),
        # Kept for 90 days, at a fifth of the size; about half, everything but the metrics, is passed on to the archive.
        ("logs", f"{use['log-gb']} GB", [("log", use["log-gb"]), ("log-kept", use["log-gb"] * 3 / 5), ("firehose", use["log-gb"] / 2)]),
        ("keys, records, files", f"Config {' and '.join(recorders) or 'off'}; {use['files-gb']} GB of files", [
            ("key", count(stacks, "AWS::KMS::Key")), ("key-requests", use["key-requests-millions"]),
            ("secret", count(stacks, "AWS::SecretsManager::Secret") + (data.parameters["MasterAuthentication"] == "secret")),
            *((f"config-{frequency}", use["config-changes"]) for frequency in recorders),
            ("config-evaluation", use["config-evaluations"] * bool(recorders)), ("flow-log", use["flow-log-gb"]),
            ("storage", use["archive-gb"] + use["files-gb"] * (data.parameters["FileStore"] == "s3")),
            ("file-system", use["files-gb"] * (data.parameters["FileStore"] == "efs")),
            ("storage-requests", use["writes-millions"]), ("messages", use["messages-millions"])]),
    ]  # fmt: skip
    switches = [("anti-ddos", edge, "AntiDDoS", 1), ("shield", edge, "Shield", 1), ("accelerator", edge, "GlobalAccelerator", month),
                ("encryption-control", network, "EncryptionControl", month)]  # fmt: skip
    chosen = [(name, units) for name, stack, parameter, units in switches if stack.parameters[parameter] != "off"]
    return rows + [("options", ", ".join(name for name, _ in chosen) or "none", chosen)]


def dollars(parts, prices):
    if missing := [name for name, _ in parts if name not in prices]:
        raise templates.Refusal(f"cloudformation/prices.toml has no price of {', '.join(missing)}")
    return sum(prices[name]["dollars"] * quantity for name, quantity in parts)


def total(environment, changed=None):
    """Dollars a month, with `changed` in place of values of the parameter file."""
    return sum(dollars(parts, read()["prices"]) for _, _, parts in estimate(environment, changed))


def budget(environment):
    """The account's monthly budget, and the share of it in percent at which AWS sends a notification."""
    foundation = deployed.stacks(environment)["foundation"]
    notifications = [one["Notification"] for one in foundation.of("AWS::Budgets::Budget")[0]["NotificationsWithSubscribers"]]
    return float(foundation.parameters["BudgetDollars"]), min(one["Threshold"] for one in notifications if one["NotificationType"] == "ACTUAL")


def too_low(environment):
    """Problems with the budget of an environment: it must stay silent in a month as estimated."""
    (allowed, percent), expected = budget(environment), total(environment)
    if expected > allowed * percent / 100:
        return f"{environment}: {expected:,.0f} $ are more than {percent} % of BudgetDollars, {allowed:,.0f} $: AWS would tell every month"


def tables():
    """The tables of the page, one of all environments and one of each, as Markdown."""
    prices, found = read()["prices"], {environment: estimate(environment) for environment in ENVIRONMENTS}
    lines = ["| a month, about $ | dev | stage | prod |", "|---|--:|--:|--:|"]
    for row in zip(*found.values()):
        lines.append(f"| {row[0][0]} | " + " | ".join(f"{dollars(parts, prices):,.0f}" for _, _, parts in row) + " |")
    lines.append("| **together** | " + " | ".join(f"**{total(one):,.0f}**" for one in ENVIRONMENTS) + " |")
    lines.append("| `BudgetDollars` | " + " | ".join(f"{budget(one)[0]:,.0f}" for one in ENVIRONMENTS) + " |")
    for environment, rows in found.items():
        lines += ["", f"### {environment}", "", "| | here | $ | units of the prices |", "|---|---|--:|---|"]
        for name, detail, parts in rows:
            units = ", ".join(f"{quantity:,.10g} {price}" for price, quantity in parts if quantity)
            lines.append(f"| {name} | {detail} | {dollars(parts, prices):,.2f} | {units} |")
    return "\n".join(lines) + "\n"


def page(text):
    """The page with its tables computed anew."""
    begin, end = "<!-- computed by make cost -->\n", "<!-- end -->"
    return text[: text.index(begin) + len(begin)] + "\n" + tables() + "\n" + text[text.index(end) :]


def main():
    print(tables())
    PAGE.write_text(page(PAGE.read_text()))
    print(f"written into {PAGE.relative_to(templates.ROOT)}")
    wrong = [line for line in map(too_low, ENVIRONMENTS) if line]
    for line in wrong:
        print(f"error: {line}")
    return bool(wrong)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except templates.Refusal as error:
        sys.exit(f"error: {error}")
