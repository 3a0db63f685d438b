"""Who may assume each role (trusts.yaml), and what services may do to keys, buckets, queues and topics (services.py): they
and nobody else, and only on our behalf (P8)."""

import copy
import functools
import pathlib

import access
import calls
import services
import yaml
from access import STRANGER, decide
from stacks import summary

MUTANTS = {"iam.yaml"}
TRUSTS = yaml.safe_load(pathlib.Path(__file__).with_name("trusts.yaml").read_text())
ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def in_each_world(stacks, check):
    """What a check finds, each once."""
    texts = (text.replace(world.account, "${Account}") for _, world in calls.worlds(stacks) for text in once(check, world))
    return sorted(set(texts))


@functools.cache
def once(check, world):
    """What a check finds: the same for the same policies."""
    return list(check(world))


def expected(world, role):
    """The requests by which a role is to be assumed, as (entry, principal, action, context)."""
    fill = functools.partial(calls.fill, world=world, stack=role.stack)
    parameters = world.stacks[role.stack]["Parameters"]
    for entry in TRUSTS.get(role.name, []):
        if any(parameters.get(name) != value for name, value in entry.get("when", {}).items()):
            continue
        try:
            principal = fill(entry["principal"])
            context = {fill(key): value if isinstance(value, list) else fill(value)
                       for key, value in entry.get("context", {}).items()}  # fmt: skip
        except calls.NotThere:
            continue
        for action in entry.get("actions", ["sts:AssumeRole"]):
            yield entry, principal, action, context


def others(role, entry, principal, context):
    """Who and what comes near an entry, and is not it."""
    account = principal.split(":")[4] if principal.startswith("arn:") else role.account
    there = {key: str(value).replace(account, STRANGER) for key, value in context.items()}
    people = ["lambda.amazonaws.com", f"arn:aws:iam::{STRANGER}:role/anybody"]
    if not entry.get("anybody"):
        people.append(f"arn:aws:iam::{account}:role/another")
    # AWS itself says which role it is that asks.
    yield from ((who, {k: who if k == "aws:PrincipalArn" else v for k, v in context.items()}) for who in people)
    if account in principal or there != context:
        yield principal.replace(account, STRANGER), there
    for key in context.keys() - {"aws:PrincipalArn"}:
        # The keys of tags come with every tag.
        if key not in access.ALWAYS | {"aws:TagKeys", *entry.get("optional", [])}:
            yield principal, {name: value for name, value in context.items() if name != key}
        if key not in entry.get("free", []):
            yield principal, {**context, key: "another"}


def assume(world, role, principal, action, context):
    """Somebody's request to assume a role. A role of another account has every right of its own to ask."""
    request = world.ask(principal, action, role.arn, context, role.trust)
    return {**request, "identity": [ALL] if principal.startswith("arn:") and ":oidc-provider/" not in principal else []}


def not_assumed(world):
    for role in world.roles.values():
        if role.name not in TRUSTS:
            yield f"{role.name} is not in trusts.yaml"
        wanted = list(expected(world, role))
        requests = [assume(world, role, *one) for _, *one in wanted]
        for (_, principal, action, _), answer in zip(wanted, decide(requests)):
            if answer["result"] != "Allowed":
                yield f"{role.name}: {action} by {principal} is {answer['result']} {answer['ignored']}"


def test_each_role_is_assumed_by_whom_it_is_for(stacks):
    problems = in_each_world(stacks, not_assumed)
    assert not problems, summary(problems)


def assumed_by_others(world):
    asked = [
        (role, other, action, its)
        for role in world.roles.values()
        for entry, principal, action, context in expected(world, role)
        for other, its in others(role, entry, principal, context)
    ]
    for (role, other, action, its), answer in zip(asked, decide([assume(world, *one) for one in asked])):
        if answer["result"] == "Allowed":
            yield f"{role.name}: {action} by {other} with {its or 'nothing'} is allowed"


def test_no_role_is_assumed_by_anybody_else(stacks):
    problems = in_each_world(stacks, assumed_by_others)
    assert not problems, summary(problems)


def by(world, deed, policy=None):
    return world.ask(deed.principal, deed.action, deed.resource, dict(deed.context), policy)


def undone(world):
    deeds = list(services.deeds(world))
    for deed, answer in zip(deeds, decide([by(world, deed) for deed in deeds])):
        if answer["result"] != "Allowed":
            yield f"{deed} is {answer['result']} {answer['why'] or ''}"
    yield from services.faults(world)


def test_services_may_do_what_the_stacks_want_of_them(stacks):
    problems = in_each_world(stacks, undone)
    assert not problems, summary(problems)


def done_for_strangers(world):
    deeds = [other for deed in services.deeds(world) if (other := deed.by_a_stranger())]
    for deed, answer in zip(deeds, decide([by(world, deed) for deed in deeds])):
        if answer["result"] == "Allowed":
            yield f"{deed} is allowed with {dict(deed.context)}"


def test_services_do_nothing_on_behalf_of_strangers(stacks):
    problems = in_each_world(stacks, done_for_strangers)
    assert not problems, summary(problems)


def unneeded(world):
    """Services that a statement of a resource's policy allows something that no deed needs."""
    deeds = list(services.deeds(world))
    for policy in world.policies:
        if policy.kind not in ("key", "bucket", "queue", "topic"):
            continue
        for number, statement in enumerate(policy.statements):
            principal = statement.get("Principal")
            if statement["Effect"] != "Allow" or not isinstance(principal, dict):
                continue
            for service in access.policies.as_list(principal.get("Service", [])):
                for action in access.policies.as_list(statement["Action"]):
                    less = copy.deepcopy(policy.document)
                    changed = access.policies.as_list(less["Statement"])[number]
                    rest = [one for one in access.policies.as_list(principal["Service"]) if one != service]
                    changed["Principal"]["Service"] = rest or ["nobody.amazonaws.com"]
                    needing = [
                        deed for deed in deeds
                        if deed.principal == service and deed.action.lower() == action.lower()
                        and world.policy_of(deed.resource) is policy.document
                    ]  # fmt: skip
                    if "Denied" not in "".join(a["result"] for a in decide([by(world, deed, less) for deed in needing])):
                        yield f"{policy.where} {statement.get('Sid', number)}: {service} needs no {action}"


def test_policies_of_resources_allow_services_nothing_else(stacks):
    """Somewhere each is needed: a statement may be for what only some environments have."""
    everywhere = [set(once(unneeded, world)) for _, world in calls.worlds(stacks)]
    problems = set.intersection(*everywhere)
    assert not problems, summary(problems)
