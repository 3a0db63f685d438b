"""cfn-lint finds nothing: neither errors nor warnings."""

from stacks import summary, templates


def test_cfn_lint_finds_nothing(linted):
    problems = [f"{path.name}: {line}" for path in templates.paths() for line in linted[path.name]]
    assert not problems, summary(problems)
