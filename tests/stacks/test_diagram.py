"""docs/reference/stacks.md is what `make diagram` draws from the templates."""

import re
import sys

from resolve import ROOT

sys.path.insert(0, str(ROOT / "scripts/operate"))

import deployed  # noqa: E402
import diagram  # noqa: E402

PAGE = diagram.PAGE.read_text()


def test_the_diagram_is_drawn_from_the_templates():
    assert diagram.page(PAGE) == PAGE, "make diagram, and look at it"


def test_every_edge_has_two_ends_and_each_stack_that_carries_data_is_there():
    nodes = set(re.findall(r"^    (\w+)\W", PAGE, re.M))
    ends = {end for edge in re.findall(r"^  (\w+) --> (\w+)$", PAGE, re.M) for end in edge}
    # What nobody refers to: others use it by a setting.
    assert ends <= nodes and len(nodes - ends) < 6, nodes - ends
    drawn = set(re.findall(r'subgraph \w+\["(\w+)"\]', PAGE))
    carrying = {name for name, stack in deployed.stacks("prod").items() if any(one["Type"] in diagram.DRAWN for one in stack.resources.values())}
    assert drawn >= carrying


def test_a_request_and_a_price_can_be_followed():
    """From the load balancer to the database and to the bus, and from there to the queue."""
    after = {}
    for begin, end in re.findall(r"^  (\w+) --> (\w+)$", PAGE, re.M):
        after.setdefault(begin, set()).add(end)
    seen, ways = set(), ["edge_Balancer"]
    while ways:
        seen.add(one := ways.pop())
        ways += after.get(one, set()) - seen
    wanted = "Cluster FilesBucket PricesTopic PricesQueue PricesDeadQueue EventsTopic NatGateway AccessLog Archive UserPool BalancerLogs"
    assert set(wanted.split()) <= {one.split("_")[1] for one in seen}
    assert "data_Cluster" not in after.get("bus_PricesQueue", ())


def test_every_type_is_drawn_or_gone_through_or_known_to_carry_nothing():
    """A new type of resource is looked at once: does data go through it?"""
    nothing = {
        "AWS::ARCZonalShift", "AWS::AccessAnalyzer", "AWS::AutoScaling::ScalingPolicy", "AWS::Budgets", "AWS::CertificateManager",
        "AWS::CloudWatch::CompositeAlarm", "AWS::CloudWatch::Dashboard", "AWS::Cognito", "AWS::Config", "AWS::EC2", "AWS::EFS",
        "AWS::GlobalAccelerator", "AWS::IAM", "AWS::KMS", "AWS::Logs::LogStream", "AWS::RDS", "AWS::S3::BucketPolicy",
        "AWS::SNS::TopicPolicy", "AWS::SQS::QueuePolicy", "AWS::SSM::Parameter", "AWS::Shield", "AWS::CodeConnections", "AWS::CodeStarNotifications",
        "AWS::Logs::ResourcePolicy",
    }  # fmt: skip
    types = {one["Type"] for template in deployed.read().values() for one in template["Resources"].values()}
    types -= set(diagram.DRAWN) | diagram.THROUGH | set(diagram.WAYS)
    assert not [one for one in sorted(types) if not any(one == known or one.startswith(f"{known}::") for known in nothing)]
