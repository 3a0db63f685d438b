"""What has to pass through the network passes, by its route, both lists of the subnets and both security groups, and its
answer comes back; what must not is refused by the lists and by the groups, each for itself."""

import ipaddress

from resolve import of_type
from stacks import summary

MUTANTS = {"network.yaml"}
INTERNET = "203.0.113.7"
# Ports that they call from: Linux those of ip_local_port_range, the balancer, a NAT and clients any that needs no rights.
LINUX, ANY = (32768, 60999), (1024, 65535)
# Who is where: tier, security group, ports that it calls from.
PLACES = {
    "client": (None, None, ANY),
    "balancer": ("Public", "BalancerSecurityGroup", ANY),
    "instance": ("Private", "InstanceSecurityGroup", LINUX),
    "migration": ("Private", "MigrationSecurityGroup", LINUX),
    "endpoint": ("Private", "EndpointSecurityGroup", LINUX),
    "database": ("Data", "DatabaseSecurityGroup", LINUX),
    "files": ("Data", "FileSystemSecurityGroup", LINUX),
    "internet": (None, None, ANY),
}
PASS = [
    *[("client", "balancer", port) for port in (80, 443, 9000)],
    *[("balancer", "instance", port) for port in (8443, 9000)],
    ("balancer", "internet", 443),  # an identity provider
    *[("instance", "internet", port) for port in (443, 587)],
    ("instance", "database", 5432),
    ("instance", "files", 2049),
    ("migration", "database", 5432),
    ("migration", "internet", 443),
]
WITH_ENDPOINTS = [("instance", "endpoint", 443), ("migration", "endpoint", 443)]
REFUSED = [
    *[("client", "instance", port) for port in (22, 443, 8443, 9000)],
    *[("client", "database", port) for port in (22, 443, 5432)],
    ("client", "balancer", 22),
    ("balancer", "database", 5432),
    ("balancer", "instance", 22),
    ("balancer", "internet", 80),
    ("instance", "balancer", 22),
    ("instance", "database", 22),
    ("instance", "instance", 8443),
    *[("instance", "internet", port) for port in (22, 80)],
    *[("database", "internet", port) for port in (80, 443)],
    ("database", "instance", 8443),
    ("files", "instance", 9000),
]
SWITCHES = [{"NatMode": "regional"}, {"NatMode": "single"}, {"NatMode": "regional", "InterfaceEndpoints": "on"}]


class Network:
    """The network as it is in one environment."""

    def __init__(self, resolved):
        self.resolved, self.resources = resolved, resolved["Resources"]
        self.single = resolved["Parameters"]["NatMode"] == "single"

    def address(self, place, zone):
        tier = PLACES[place][0]
        if tier is None:
            return INTERNET
        return str(ipaddress.ip_network(self.resources[f"{tier}{zone}"]["Properties"]["CidrBlock"])[20])

    def goes_by(self, tier, address):
        """Whether the tier has a way to the address: within the VPC, or by a route to the internet."""
        if ipaddress.ip_address(address) in ipaddress.ip_network(self.resources["Vpc"]["Properties"]["CidrBlock"]):
            return True
        table = self.resolved["Refs"][f"{tier}Routes"]
        return any(route["Properties"]["RouteTableId"] == table for _, route in of_type(self.resolved, "AWS::EC2::Route"))

    def list_lets(self, tier, way, address, port):
        """Whether the list of a tier lets a packet to a port in or out; `address` is that of the other side."""
        entries = [entry["Properties"] for _, entry in of_type(self.resolved, "AWS::EC2::NetworkAclEntry")]
        entries = [one for one in entries if one["NetworkAclId"] == self.resolved["Refs"][f"{tier}List"]]
        for one in sorted(entries, key=lambda one: one["RuleNumber"]):
            ports = one.get("PortRange", {"From": -1, "To": -1})
            if (str(one["Egress"]).lower() == "true") == (way == "out") and int(ports["From"]) <= port <= int(ports["To"]):
                if ipaddress.ip_address(address) in ipaddress.ip_network(one["CidrBlock"]):
                    return one["RuleAction"] == "allow"
        return False

    def lists_let(self, caller, called, port):
        """Whether the lists let a call through and its answer back, from each end of the ports that it may come from."""
        here, there = self.address(caller, "B"), self.address(called, "C")
        (from_tier, _, own), to_tier = PLACES[caller], PLACES[called][0]

        def leaves(tier, answered):
            return self.list_lets(tier, "out", there, port) and self.list_lets(tier, "in", there, answered)

        def enters(tier, answered):
            return self.list_lets(tier, "in", here, port) and self.list_lets(tier, "out", here, answered)

        passed = [leaves(from_tier, answered) for answered in own if from_tier]
        passed += [enters(to_tier, answered) for answered in own if to_tier]
        if self.single and from_tier == "Private" and there == INTERNET:
            passed += [enters("Public", answered) for answered in own] + [leaves("Public", answered) for answered in ANY]
        return all(passed)

    def group_lets(self, place, way, other, port):
        """Whether the security group of a place lets it call the other one (Egress), or be called by it (Ingress)."""
        group, peer = PLACES[place][1], PLACES[other][1]
        if group is None:
            return True
        if group not in self.resources:
            return False
        refs = self.resolved["Refs"]
        rules = list(self.resources[group]["Properties"].get(f"SecurityGroup{way}") or [])
        of_their_own = [rule["Properties"] for _, rule in of_type(self.resolved, f"AWS::EC2::SecurityGroup{way}")]
        rules += [rule for rule in of_their_own if rule["GroupId"] == refs[group]]
        for rule in rules:
            named = rule.get("DestinationSecurityGroupId" if way == "Egress" else "SourceSecurityGroupId")
            if rule.get("CidrIp") == "0.0.0.0/0" or (peer and named == refs.get(peer)):
                if int(rule["FromPort"]) <= port <= int(rule["ToPort"]):
                    return True
        return False

    def groups_let(self, caller, called, port):
        return self.group_lets(caller, "Egress", called, port) and self.group_lets(called, "Ingress", caller, port)


def networks(stacks, **more):
    for switches in SWITCHES:
        yield ", ".join({**switches, **more}.values()), Network(stacks.resolved("prod", **switches, **more)["network"])


def test_what_has_to_pass_passes(stacks):
    problems = []
    for label, network in networks(stacks):
        calls = PASS + (WITH_ENDPOINTS if "EndpointSecurityGroup" in network.resources else [])
        for caller, called, port in calls:
            tier, address = PLACES[caller][0], network.address(called, "C")
            if tier and not network.goes_by(tier, address):
                problems.append((f"{caller} has no way to {called}", label))
            if not network.lists_let(caller, called, port):
                problems.append((f"the lists refuse {caller} → {called} {port}", label))
            if not network.groups_let(caller, called, port):
                problems.append((f"the security groups refuse {caller} → {called} {port}", label))
    for label, network in networks(stacks, WebhookPorts="any"):
        if not (network.lists_let("instance", "internet", 8443) and network.groups_let("instance", "internet", 8443)):
            problems.append(("webhooks on other ports are refused", label))
    assert not problems, summary(problems)


def test_nothing_else_passes(stacks):
    problems = []
    for label, network in networks(stacks):
        for caller, called, port in REFUSED:
            if network.lists_let(caller, called, port):
                problems.append((f"the lists let {caller} → {called} {port} through", label))
            if network.groups_let(caller, called, port):
                problems.append((f"the security groups let {caller} → {called} {port} through", label))
        if network.goes_by("Data", INTERNET):
            problems.append(("the data have a way to the internet", label))
    assert not problems, summary(problems)


def test_each_group_says_whom_it_may_call(stacks):
    """One without any egress rule in it may call everybody."""
    problems = []
    for stack, resolved in stacks.resolved("prod", InterfaceEndpoints="on").items():
        for name, group in of_type(resolved, "AWS::EC2::SecurityGroup"):
            if not group["Properties"].get("SecurityGroupEgress"):
                problems.append(f"{stack}: {name} may call everybody")
    assert not problems, summary(problems)


def test_tiers_are_blocks_of_their_subnets(stacks):
    problems, network = [], stacks.resolved("prod")["network"]
    blocks = list(ipaddress.ip_network(network["Parameters"]["VpcCidr"]).subnets(2))
    for number, tier in enumerate(("Public", "Private", "Data")):
        zones = set()
        for zone in "ABC":
            subnet = network["Resources"][f"{tier}{zone}"]["Properties"]
            zones.add(subnet["AvailabilityZone"])
            if not ipaddress.ip_network(subnet["CidrBlock"]).subnet_of(blocks[number]):
                problems.append(f"{tier}{zone} is not in the block of its tier")
        if len(zones) != 3:
            problems.append(f"{tier} is in {len(zones)} zones")
    assert not problems, summary(problems)
