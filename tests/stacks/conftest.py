"""The tests of the stacks: `scripts/check-stacks.sh`, or `python -m pytest tests/stacks` with the packages of
requirements.txt.

A test that takes `stacks` and nothing else reads the templates from it alone. Such a test is also run on every mutant of
broken/ (test_broken.py), and each of them must fail on at least one.
"""

import pytest

from stacks import Stacks


@pytest.fixture(scope="session")
def stacks():
    return Stacks()
