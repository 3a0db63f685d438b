"""Everything that takes tags has the six, by CloudFormation's schemas, and none that the metadata of an instance cannot show."""

import re

from stacks import schema, summary, templates, walk

SIX = ("Project", "Environment", "Component", "Version", "CostCentre", "ManagedBy")


def tag_property(kind):
    """Where the tags of a type are, such as Tags or UserPoolTags; None for those that take none."""
    tagging = schema(kind).get("tagging", {})
    name = tagging.get("tagProperty", "/properties/Tags").split("/")[2]
    return name if tagging.get("taggable", True) and name in schema(kind)["properties"] else None


def as_map(tags):
    if isinstance(tags, dict):
        return tags
    return {tag["Key"]: tag["Value"] for tag in tags or []}


def tagged(resolved):
    """What takes tags in a resolved stack, with its tags: resources, and what a launch template makes."""
    for name, resource in resolved["Resources"].items():
        properties = resource.get("Properties") or {}
        place = tag_property(resource["Type"])
        if place:
            yield name, as_map(properties.get(place))
        if resource["Type"] == "AWS::EC2::LaunchTemplate":
            # The schema has no tagging block for it.
            own = {part["ResourceType"]: as_map(part["Tags"]) for part in properties.get("TagSpecifications", [])}
            yield name, own.get("launch-template", {})
            data = properties["LaunchTemplateData"].get("TagSpecifications", [])
            made = {part["ResourceType"]: as_map(part["Tags"]) for part in data}
            for kind in ("instance", "volume"):
                yield f"{name} ({kind})", made.get(kind, {})


def wanted(resolved):
    environment = "tools" if resolved["Stack"] in templates.TOOLS else resolved["Environment"]
    return {
        "Project": "salebell",
        "Environment": environment,
        "Component": resolved["Stack"],
        "ManagedBy": "cloudformation",
    }


def test_everything_that_takes_tags_has_all_six(stacks):
    problems = []
    for label, resolved in stacks.news():
        for name, tags in tagged(resolved):
            missing = [key for key in SIX if not tags.get(key)]
            wrong = [key for key, value in wanted(resolved).items() if tags.get(key, value) != value]
            if missing or wrong:
                problems.append((f"{resolved['Stack']}, {name}: missing {missing}, wrong {wrong}", label))
    assert not problems, summary(problems)


def test_metadata_can_show_each_tag(stacks):
    problems = set()
    for _, resolved in stacks.news():
        for path, node in walk(resolved["Resources"]):
            keys = []
            if isinstance(node, dict) and {"Key", "Value"} <= node.keys() and any("Tags" in str(part) for part in path):
                keys = [node["Key"]]
            elif path and isinstance(node, dict) and str(path[-1]).endswith("Tags"):
                keys = list(node)
            problems |= {f"{resolved['Stack']}, {path[0]}: {key!r}" for key in keys if re.search(r"[\s/]", str(key))}
    assert not problems, summary(problems)
