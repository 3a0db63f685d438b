"""Each policy by itself: it names actions, condition keys and resources that there are, and no more of them than it says
(P10)."""

import functools
import pathlib
import re

import calls
import policies
import yaml
from access import global_condition_keys
from resolve import ACCOUNTS, REGION

MUTANTS = {"iam.yaml"}
STARS = pathlib.Path(__file__).with_name("stars.yaml")


def found(stacks, check):
    """What a check finds in the policies of all environments, each once."""
    return sorted({text for _, world in calls.worlds(stacks) for policy in world.policies for text in check(policy)})


@functools.cache
def _faults(where, kind, text):
    policy = policies.Policy(*where.split("/", 1), kind, "", policies.json.loads(text))
    return list(policies.faults(policy, global_condition_keys()))


def test_policies_name_what_there_is(stacks):
    assert not found(stacks, lambda policy: _faults(policy.where, policy.kind, policy.text))


def everywhere(world, text):
    """An ARN as stars.yaml has it, for all environments."""
    known = {world.environment: "${Environment}", REGION: "${Region}"} | dict.fromkeys(ACCOUNTS.values(), "${Account}")
    for value, name in known.items():
        text = re.sub(rf"\b{value}\b", lambda _, name=name: name, text)
    return text


def test_every_star_has_a_reason(stacks):
    """An action with a star, a resource `*` of an action that could be about one by name, and an ARN that names nothing."""
    reasons = {(one["policy"], one["statement"], star): one["reason"] for one in yaml.safe_load(STARS.read_text())
               for star in one["stars"]}  # fmt: skip
    stars = {
        (f"{policy.stack}/{policy.resource}", str(sid), everywhere(world, star)): what
        for _, world in calls.worlds(stacks)
        for policy in world.policies
        for sid, star, what in policies.stars(policy)
    }
    problems = [f"{where} {sid}: {star} {what}" for (where, sid, star), what in stars.items() if (where, sid, star) not in reasons]
    problems += [f"stars.yaml: {' '.join(key)} is no star any more" for key in reasons if key not in stars]
    assert not problems


def test_no_policy_is_overlooked(stacks):
    assert not sorted({text for _, world in calls.worlds(stacks) for text in policies.overlooked(world.stacks)})


def test_policies_fit_the_quotas_of_aws(stacks):
    assert not sorted({text for _, world in calls.worlds(stacks) for text in policies.sizes(world.stacks)})
