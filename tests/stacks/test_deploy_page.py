"""The steps of docs/guides/deploy.md are executed as they stand, from an empty account to the first request as far as the
emulator goes: deploy_page.py."""

import pytest

import deploy_page
from deployment import AWAY


def test_every_marked_step_has_a_reason_and_every_reason_a_step():
    assert deploy_page.wrong(deploy_page.blocks(deploy_page.PAGE.read_text())) == []


def test_a_mark_without_a_reason_and_a_reason_without_a_mark_are_found():
    text = deploy_page.PAGE.read_text().replace("<!-- on AWS alone: build -->", "<!-- on AWS alone: compile -->")
    found = deploy_page.wrong(deploy_page.blocks(text))
    assert found == ["compile is marked, and nothing says why", "build has a reason, and is marked nowhere"]


def test_every_step_that_is_not_marked_works(dev):
    for block in dev.page:
        if block.step != AWAY:
            expected = {line for step, line in deploy_page.ENDS if step == block.step} & set(block.commands.splitlines())
            assert len(block.failed) == len(expected), f"{block.step}:\n{block.commands}\n{block.failed}\n{block.said}"


def test_every_step_prints_what_the_page_says(dev):
    for block in dev.page:
        if block.step != AWAY and not block.mark:
            assert block.missing() is None, f"{block.step}: no such line:\n{block.missing()}\namong\n{block.said}"


def test_a_step_that_fails_and_a_line_that_never_comes_are_found(dev):
    """On the shell of the page itself, which goes on behind them."""
    block = deploy_page.Block("1. Account and domain", None, "aws sts no-such-command >/dev/null 2>&1\necho one\necho two\n", "two\none\n")
    dev.shell.run(block)
    assert len(block.failed) == 1 and "no-such-command" in block.failed[0]
    assert block.missing() == "one"


@pytest.fixture(autouse=True, scope="module")
def database():
    if not deploy_page.Database.possible():
        pytest.skip("needs the programs of PostgreSQL")
