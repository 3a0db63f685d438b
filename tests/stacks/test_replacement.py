"""What a rollout changes replaces nothing: an image, settings, weights, the next version.

By the create-only properties of CloudFormation's schemas. That a change set says so too is shown in test_deployment.py.
"""

import json

from stacks import ENVIRONMENTS, schema, summary

# The parameters that a rollout gives, before and after.
UPDATES = {
    "a new image": {"ImageId": "ami-0fedcba9876543210"},
    "a new image for the canary": {"CanaryImageId": "ami-0fedcba9876543210"},
    "new settings": {"SettingsHash": "fedcba9876543210"},
    "new settings for the canary": {"CanarySettingsHash": "fedcba9876543210"},
    "a canary": {"CanaryInstances": "1"},
    "a tenth of the requests to the canary": {"CanaryWeight": "10"},
    "no gates": {"Gates": "off"},
    "the classic update": {"Rollout": "classic"},
    "a new version": {"Version": "9.9.9"},
}
# What may change at all, where it matters that nothing else does.
TOUCHES = {
    "a new image": {"AWS::EC2::LaunchTemplate"},
    "a new image for the canary": {"AWS::EC2::LaunchTemplate"},
    "new settings": {"AWS::EC2::LaunchTemplate"},
    "new settings for the canary": {"AWS::EC2::LaunchTemplate"},
    "a canary": {"AWS::AutoScaling::AutoScalingGroup"},
    "a tenth of the requests to the canary": {"AWS::ElasticLoadBalancingV2::ListenerRule", "AWS::ElasticLoadBalancingV2::Listener"},
}
# The schemas say that these may replace the resource. They do not here.
HARMLESS = {
    ("AWS::AutoScaling::AutoScalingGroup", "/properties/LaunchTemplate"): "only with AutoScalingReplacingUpdate, which is nowhere",
}


def differing(before, after, path=""):
    """The paths of properties that differ, down to the innermost map."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from differing(before.get(key), after.get(key), f"{path}/{key}")
    elif before != after:
        yield path


def replacements(before, after):
    """The changed properties of one resource that have it replaced."""
    kind = after["Type"]
    if before == after:
        return []
    if before["Type"] != kind:
        return ["its type"]
    fixed = set(schema(kind).get("createOnlyProperties", [])) | set(schema(kind).get("conditionalCreateOnlyProperties", []))
    fixed = {path for path in fixed if (kind, path) not in HARMLESS}
    changed = list(differing(before.get("Properties") or {}, after.get("Properties") or {}, "/properties"))
    return sorted({path for path in fixed for one in changed if one == path or one.startswith(path + "/") or path.startswith(one + "/")})


def comparisons(stacks):
    """Each update with the resources of each stack before and after it."""
    for environment in ENVIRONMENTS:
        for label, parameters in UPDATES.items():
            after = stacks.resolved(environment, **parameters)
            for stack, before in stacks.resolved(environment).items():
                yield f"{label} in {environment}", stack, before["Resources"], after[stack]["Resources"]


def test_a_rollout_replaces_nothing(stacks):
    problems = []
    for where, stack, before, after in comparisons(stacks):
        problems += [(f"{stack}: {name} goes", where) for name in before if name not in after]
        for name in before.keys() & after.keys():
            paths = replacements(before[name], after[name])
            problems += [(f"{stack}: {name} is replaced for {path}", where) for path in paths]
    assert not problems, summary(problems)


def test_a_rollout_changes_what_it_must_and_no_more(stacks):
    problems = []
    for environment in ENVIRONMENTS:
        for label, kinds in TOUCHES.items():
            after = stacks.resolved(environment, **UPDATES[label])
            changed = [
                (stack, name, after[stack]["Resources"][name]["Type"])
                for stack, before in stacks.resolved(environment).items()
                for name, resource in before["Resources"].items()
                if resource != after[stack]["Resources"].get(name)
            ]
            if not changed:
                problems.append((f"{label} changes nothing", environment))
            problems += [(f"{label}: {stack}, {name}", environment) for stack, name, kind in changed if kind not in kinds]
    assert not problems, summary(problems)


def test_groups_are_never_replaced_to_update_them(stacks):
    problems = []
    for label, resolved in stacks.news():
        for name, resource in resolved["Resources"].items():
            if "AutoScalingReplacingUpdate" in resource.get("UpdatePolicy", {}):
                problems.append((f"{resolved['Stack']}, {name}", label))
    assert not problems, summary(problems)


def test_what_stays_is_taken_over_or_in_nobodys_way(stacks):
    """A thing that outlives its stack keeps its name from the next one, unless CloudFormation imports it: that wants a name
    without functions, which is the identifier of its type. All others are to be named by the stack or by what goes with it."""
    problems = []
    for stack, template in stacks.templates.items():
        for name, resource in template["Resources"].items():
            if str(resource.get("DeletionPolicy")).startswith("Retain"):
                types, properties = schema(resource["Type"]), resource.get("Properties", {})
                for path in types.get("createOnlyProperties", []):
                    given = properties.get(key := path.removeprefix("/properties/"))
                    if not key.endswith("Name") or given is None:
                        continue
                    text = json.dumps(given)
                    fixed = isinstance(given, str) and types["primaryIdentifier"] == [path]
                    own = "AWS::StackId" in text or any(f"${{{other}}}" in text for other in template["Resources"])
                    if not fixed and not own:
                        problems.append((f"{stack}: {name} stays as {text}", "any"))
    assert not problems, summary(problems)
