"""Each mutant of broken/ is caught by exactly the checks that it names, and each check catches one."""

import json

import pytest

import rules
from mutants import CFN_LINT, checks, load, mutate
from resolve import Unresolved
from test_lint import lint

ALL = load()


def failing_rules(stacks, stack):
    try:
        return {
            rule
            for _, resolved in stacks.variants(stack)
            for rule in rules.failures(resolved, stacks.templates[stack])
        }
    except Unresolved:
        # Then a test of the outputs fails.
        return set()


def fails(check, stacks):
    try:
        check(stacks)
    except Unresolved:
        # Only test_what_is_referred_to_is_made is about that.
        return False
    except Exception:
        return True
    return False


@pytest.fixture(scope="session")
def linted(stacks, tmp_path_factory):
    """What cfn-lint says about the mutants that it is to catch, by name: one call for all."""
    folder, names = tmp_path_factory.mktemp("mutants"), {}
    for mutant in ALL:
        if CFN_LINT in mutant["caught_by"]:
            path = folder / f"{len(names)}.json"
            path.write_text(json.dumps(mutate(stacks, mutant).templates[mutant["stack"]]))
            names[mutant["name"]] = str(path)
    found = lint(names.values()) if names else {}
    return {name: found.get(path, []) for name, path in names.items()}


@pytest.mark.parametrize("mutant", ALL, ids=[mutant["name"] for mutant in ALL])
def test_mutant_is_caught(stacks, linted, mutant):
    mutated = mutate(stacks, mutant)
    caught_by = {name for name, check in checks(mutant["file"]).items() if fails(check, mutated)}
    caught_by |= failing_rules(mutated, mutant["stack"])
    if linted.get(mutant["name"]):
        caught_by.add(CFN_LINT)
    assert caught_by == mutant["caught_by"]


def test_every_check_catches_a_mutant():
    named = set().union(*(mutant["caught_by"] for mutant in ALL))
    assert not (checks().keys() | set(rules.names()) | {CFN_LINT}) - named
