"""Each policy by itself: it names actions, condition keys and resources that there are, and no more of them than it says
(P10)."""

import functools
import pathlib

import calls
import policies
import yaml
from access import global_condition_keys
from stacks import summary

MUTANTS = {"iam.yaml"}
STARS = yaml.safe_load(pathlib.Path(__file__).with_name("stars.yaml").read_text())


def found(stacks, check):
    """What a check finds in the policies of all environments, each once."""
    return sorted({text for _, world in calls.worlds(stacks) for policy in world.policies for text in check(policy)})


@functools.cache
def _faults(where, kind, text):
    policy = policies.Policy(*where.split("/", 1), kind, "", policies.json.loads(text))
    return list(policies.faults(policy, global_condition_keys()))


def test_policies_name_what_there_is(stacks):
    problems = found(stacks, lambda policy: _faults(policy.where, policy.kind, policy.text))
    assert not problems, summary(problems)


def test_every_star_has_a_reason(stacks):
    """An action with a star, a resource `*` of an action that could be about one by name, and an ARN that names nothing. Of
    things that have no name but an id of AWS, a condition may say which they are."""
    reasons = {(f"{where} {sid}", star) for where, statements in STARS["statements"].items()
               for sid, one in statements.items() for star in one["stars"]}  # fmt: skip
    stars = {
        (f"{policy.stack}/{policy.resource} {statement['Sid']}", star): what
        for _, world in calls.worlds(stacks)
        for policy in world.policies
        for statement, star, what in policies.stars(policy)
        if star not in STARS["ids"] or "Condition" not in statement
    }
    problems = [f"{where}: {star} {what}" for (where, star), what in stars.items() if (where, star) not in reasons]
    problems += [f"stars.yaml: {where} has no {star} any more" for where, star in sorted(reasons - stars.keys())]
    assert not problems, summary(problems)


def test_the_policy_of_a_topic_names_it_alone(stacks):
    """SNS refuses all else: `Policy statement must apply to a single resource`, also for one document of two topics."""
    problems = set()
    for _, world in calls.worlds(stacks):
        for stack, id, properties in world.resources("AWS::SNS::TopicPolicy"):
            named = [statement["Resource"] for statement in properties["PolicyDocument"]["Statement"]]
            if len(properties["Topics"]) != 1 or any(one != properties["Topics"][0] for one in named):
                problems.add(f"{stack}/{id} is of {len(properties['Topics'])} topics, and names {', '.join(map(str, named))}")
    assert not problems, summary(problems)


def test_no_policy_is_overlooked(stacks):
    variants = {id(template): {template["Stack"]: template} for _, template in stacks.variants()}.values()
    problems = {text for variant in variants for text in policies.overlooked(variant)}
    assert not problems, summary(problems)


def test_policies_fit_the_quotas_of_aws(stacks):
    problems = {text for _, world in calls.worlds(stacks) for text in policies.sizes(world.stacks)}
    assert not problems, summary(problems)
