"""The templates keep the guard rules of cloudformation/rules, in each environment and with each switch either way."""

import pytest

import rules


@pytest.fixture(scope="module")
def broken_rules(stacks):
    return [
        (label, rule, paths)
        for label, resolved in stacks.variants()
        for rule, paths in rules.failures(resolved, stacks.templates[resolved["Stack"]]).items()
    ]


@pytest.mark.parametrize("rule", rules.names())
def test_rule(broken_rules, rule):
    problems = [f"{label}: {', '.join(paths)}" for label, name, paths in broken_rules if name == rule]
    assert not problems
