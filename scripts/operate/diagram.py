"""Draws the stacks as Mermaid into docs/reference/stacks.md, from the templates as they are in prod: what carries data, and which way
it flows, derived only from references. Works offline."""

import re
import sys

import deployed
import templates

PAGE = templates.ROOT / "docs/reference/stacks.md"
# Resource types that carry data: the noun for one of them, and its shape in the diagram.
DRAWN = {
    "AWS::Route53::RecordSet": ("DNS", "([", "])"),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": ("load balancer", "[", "]"),
    "AWS::ElasticLoadBalancingV2::Listener": ("listener", "[", "]"),
    "AWS::ElasticLoadBalancingV2::ListenerRule": ("rule", "[", "]"),
    "AWS::ElasticLoadBalancingV2::TargetGroup": ("target group", "[", "]"),
    "AWS::AutoScaling::AutoScalingGroup": ("group of instances", "[[", "]]"),
    "AWS::WAFv2::WebACL": ("firewall", "{{", "}}"),
    "AWS::Cognito::UserPool": ("users", "[(", ")]"),
    "AWS::RDS::DBCluster": ("database", "[(", ")]"),
    "AWS::S3::Bucket": ("bucket", "[(", ")]"),
    "AWS::EFS::FileSystem": ("file system", "[(", ")]"),
    "AWS::SecretsManager::Secret": ("secret", "[(", ")]"),
    "AWS::SNS::Topic": ("topic", ">", "]"),
    "AWS::SQS::Queue": ("queue", "[/", "/]"),
    "AWS::Logs::LogGroup": ("log group", "[/", "/]"),
    "AWS::KinesisFirehose::DeliveryStream": ("stream", "[/", "/]"),
    "AWS::EC2::NatGateway": ("NAT", "[", "]"),
    "AWS::EC2::FlowLog": ("flow log", "[/", "/]"),
    "AWS::CloudTrail::Trail": ("trail", "[/", "/]"),
    "AWS::Config::DeliveryChannel": ("Config", "[/", "/]"),
    "AWS::CloudWatch::Alarm": ("alarm", "{{", "}}"),
    "AWS::Events::Rule": ("event", "{{", "}}"),
    "AWS::SSM::Document": ("session", "([", "])"),
    "AWS::CodePipeline::Pipeline": ("pipeline", "[[", "]]"),
    "AWS::CodeBuild::Project": ("build", "[", "]"),
}
# Not drawn but followed: the role of an instance names what it may use, and its subnet where all other traffic goes.
THROUGH = {"AWS::EC2::LaunchTemplate", "AWS::IAM::InstanceProfile", "AWS::IAM::Role", "AWS::EC2::Subnet", "AWS::EC2::RouteTable"}
# A connection rather than a place: from what its first property names to what the second does.
WAYS = {
    "AWS::SNS::Subscription": ("TopicArn", "Endpoint"),
    "AWS::Logs::SubscriptionFilter": ("LogGroupName", "DestinationArn"),
    "AWS::WAFv2::WebACLAssociation": ("WebACLArn", "ResourceArn"),
    "AWS::WAFv2::LoggingConfiguration": ("ResourceArn", "LogDestinationConfigs"),
    "AWS::EC2::SubnetRouteTableAssociation": ("SubnetId", "RouteTableId"),
    "AWS::EC2::Route": ("RouteTableId", "NatGatewayId"),
}
# Data flows to most resources that a property names, but from those of these properties.
FROM = {"LoadBalancerArn", "ListenerArn", "TargetGroupARNs", "LogGroupName"}
# The subject of an alarm does not receive data.
LEFT_OUT = {"Tags", "Dimensions", "Metrics", "EventPattern", "OKActions", "AssumeRolePolicyDocument", "SecurityGroups", "ServiceLinkedRoleARN"}
# Drawn only as a number, if they notify a topic.
COUNTED = {"AWS::CloudWatch::Alarm", "AWS::Events::Rule"}


def written(text, stacks):
    """Log groups of the image, which the role of the instances names by how their names begin."""
    for begin in re.findall(r"log-group:(/[^:*]+)\*", text):
        for name, resource in stacks["foundation"].resources.items():
            if resource["Type"] == "AWS::Logs::LogGroup" and resource["Properties"]["LogGroupName"].startswith(begin):
                yield "foundation", name


def named(node, stack, stacks):
    """The resources that a part of a template refers to, each a pair of a stack and a logical id."""
    if isinstance(node, list):
        return {found for one in node for found in named(one, stack, stacks)}
    found = set()
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "Ref":
            found.add((stack, value))
        elif key == "Fn::GetAtt":
            found.add((stack, value[0]))
        elif key == "Fn::GetStackOutput":
            other = value["StackName"]["Fn::Sub"].removeprefix("salebell-${Environment}-")
            found |= named(stacks[other].outputs[value["OutputName"]]["Value"], other, stacks)
        elif key == "Fn::Sub":
            text, more = value if isinstance(value, list) else (value, {})
            found |= {(stack, name.split(".")[0]) for name in re.findall(r"\$\{([\w.]+)\}", text)} | named(more, stack, stacks)
            found |= set(written(text, stacks))
        elif key not in LEFT_OUT:
            found |= named(value, stack, stacks)
    return found


def references(stacks):
    """Pairs of the source and the destination of data."""
    for stack, one in stacks.items():
        for name, resource in one.resources.items():
            properties, kind = resource.get("Properties", {}), resource["Type"]
            if kind in WAYS:
                begin, end = (named(properties.get(part, []), stack, stacks) for part in WAYS[kind])
                yield from ((a, b) for a in begin for b in end)
            elif kind in DRAWN or kind in THROUGH:
                for key, value in properties.items():
                    for other in named({key: value}, stack, stacks):
                        yield (other, (stack, name)) if key in FROM else ((stack, name), other)


def edges(stacks, kinds):
    """Pairs of drawn resources between which data flows, also through resources that are only followed."""
    after = {}
    for begin, end in references(stacks):
        after.setdefault(begin, set()).add(end)

    def reached(begin, seen):
        for end in after.get(begin, set()) - seen:
            seen.add(end)
            if kinds.get(end) in DRAWN:
                yield end
            elif kinds.get(end) in THROUGH:
                yield from reached(end, seen)

    return {(begin, end) for begin in kinds if kinds[begin] in DRAWN for end in reached(begin, {begin})}


def classes(kinds, pairs):
    """Resources by what is drawn as one: those of a stack and type that give to, and take from, the same others."""
    of = {one: (one[0], kind) for one, kind in kinds.items() if kind in DRAWN}
    while True:
        near = {one: (of[one], frozenset(of[b] for a, b in pairs if a == one), frozenset(of[a] for a, b in pairs if b == one)) for one in of}
        numbers = {key: number for number, key in enumerate(dict.fromkeys(near.values()))}
        if len(numbers) == len(set(of.values())):
            return of
        of = {one: numbers[near[one]] for one in of}


def draw():
    stacks = {**deployed.stacks("prod"), **deployed.stacks("tools")}
    kinds = {(stack, name): one["Type"] for stack, two in stacks.items() for name, one in two.resources.items()}
    pairs = edges(stacks, kinds)
    silent = {one for one, kind in kinds.items() if kind in COUNTED} - {begin for begin, _ in pairs}
    kinds = {one: kind for one, kind in kinds.items() if one not in silent}
    of, nodes, lines = classes(kinds, pairs), {}, ["flowchart LR"]
    for one in of:
        nodes.setdefault(of[one], []).append(one)
    ids = {group: f"{members[0][0]}_{members[0][1]}" for group, members in nodes.items()}
    for stack in stacks:
        inside = [(group, members) for group, members in nodes.items() if members[0][0] == stack]
        lines += [f'  subgraph {stack}_stack["{stack}"]'] * bool(inside)
        for group, members in inside:
            kind = kinds[members[0]]
            what, begin, end = DRAWN[kind]
            label = "<br/>".join([f"<i>{what}</i>", *sorted(name for _, name in members)])
            label = f"{len(members)} {what}{'s' * (len(members) > 1)}" if kind in COUNTED else label
            lines.append(f'    {ids[group]}{begin}"{label}"{end}')
        lines += ["  end"] * bool(inside)
    lines += sorted({f"  {ids[of[begin]]} --> {ids[of[end]]}" for begin, end in pairs})
    return "\n".join(lines) + "\n"


def page(text):
    """The page with its diagram drawn anew."""
    begin, end = "```mermaid\n", "```\n"
    at = text.index(begin) + len(begin)
    return text[:at] + draw() + text[text.index(end, at) :]


def main():
    PAGE.write_text(page(PAGE.read_text()))
    print(f"written into {PAGE.relative_to(templates.ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except templates.Refusal as error:
        sys.exit(f"error: {error}")
