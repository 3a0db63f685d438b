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
            for _, resolved in stacks.news(stack)
            for rule in rules.failures(resolved, stacks.templates[stack])
        }
    except Unresolved:
        # Then a test of the outputs fails.
        return set()


def failing_tests(stacks, file=None):
    failing = set()
    for name, check in checks(file).items():
        try:
            check(stacks)
        except Unresolved:
            # test_what_is_referred_to_is_made is about that, and catches it.
            pass
        except Exception:
            failing.add(name)
    return failing


@pytest.fixture(scope="session")
def failing_anyway(stacks):
    """What fails without any mutant: it says so itself, and no mutant need."""
    failing = failing_tests(stacks)
    for stack in stacks.templates:
        failing |= failing_rules(stacks, stack)
    return failing


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
def test_mutant_is_caught(stacks, failing_anyway, linted, mutant):
    mutated = mutate(stacks, mutant)
    caught_by = failing_tests(mutated, mutant["file"]) | failing_rules(mutated, mutant["stack"])
    if linted.get(mutant["name"]):
        caught_by.add(CFN_LINT)
    assert caught_by - failing_anyway == mutant["caught_by"] - failing_anyway


def test_every_check_catches_a_mutant():
    named = set().union(*(mutant["caught_by"] for mutant in ALL))
    without = (checks().keys() | set(rules.names()) | {CFN_LINT}) - named
    unknown = named - checks().keys() - set(rules.names()) - {CFN_LINT}
    assert not without, f"no mutant shows that these can fail: {sorted(without)}"
    assert not unknown, f"these are no checks: {sorted(unknown)}"
