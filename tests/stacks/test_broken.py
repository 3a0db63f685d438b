"""Each mutant of broken/ is caught by exactly the checks that it names, and each check catches one."""

import pytest

import rules
from lint import CFN_LINT
from mutants import checks, load, mutate
from resolve import Unresolved

ALL = load()


def failing_rules(stacks, stack, only=None):
    try:
        failing = (rules.failures(resolved, stacks.templates[stack]) for _, resolved in stacks.news(stack))
        return {rule for broken in failing for rule in broken if only is None or rule in only}
    except Unresolved:
        # Then a test of the outputs fails.
        return set()


def failing_tests(stacks, file=None, only=None):
    failing = set()
    for name, check in checks(file).items():
        if only is None or name in only:
            try:
                check(stacks)
            except Unresolved:
                # test_what_is_referred_to_is_made is about that, and catches it.
                pass
            except Exception:
                failing.add(name)
    return failing


@pytest.mark.parametrize("mutant", ALL, ids=[mutant["name"] for mutant in ALL])
def test_mutant_is_caught(stacks, linted, mutant):
    mutated, stack = mutate(stacks, mutant), mutant["stack"]
    caught_by = failing_tests(mutated, mutant["file"]) | failing_rules(mutated, stack)
    if linted.get(mutant["name"]):
        caught_by.add(CFN_LINT)
    different = caught_by ^ mutant["caught_by"]
    if different:
        # What fails without any mutant says so itself.
        anyway = failing_tests(stacks, only=different) | failing_rules(stacks, stack, different)
        assert caught_by - anyway == mutant["caught_by"] - anyway


def test_every_check_catches_a_mutant():
    named = set().union(*(mutant["caught_by"] for mutant in ALL))
    without = (checks().keys() | set(rules.names()) | {CFN_LINT}) - named
    unknown = named - checks().keys() - set(rules.names()) - {CFN_LINT}
    assert not without, f"no mutant shows that these can fail: {sorted(without)}"
    assert not unknown, f"these are no checks: {sorted(unknown)}"
