"""The templates keep the guard rules of cloudformation/rules, in each environment and with each switch either way."""

import pytest

import rules
from stacks import summary


@pytest.fixture(scope="module")
def broken_rules(stacks):
    return [
        (label, rule, f"{resolved['Stack']}: {', '.join(paths)}")
        for label, resolved in stacks.news()
        for rule, paths in rules.failures(resolved, stacks.templates[resolved["Stack"]]).items()
    ]


@pytest.mark.parametrize("rule", rules.names())
def test_rule(broken_rules, rule):
    problems = [(text, label) for label, name, text in broken_rules if name == rule]
    assert not problems, summary(problems)
