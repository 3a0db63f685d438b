"""The tests of the stacks: `scripts/check-stacks.sh`, or `python -m pytest tests/stacks` with the packages of
requirements.txt.

A test that takes `stacks` and nothing else reads the templates from it alone. Such a test is also run on every mutant of
broken/ (test_broken.py), and each of them must fail on at least one.
"""

import json
import os

import pytest

from lint import CFN_LINT, lint
from mutants import load, mutate
from stacks import Stacks, templates

# The make that has started us hands its own flags to each make below it, and that one says which folder it works in.
for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def stacks():
    return Stacks()


@pytest.fixture(scope="session")
def linted(stacks, tmp_path_factory):
    """What cfn-lint says about each template, and about each mutant that it is to catch, by name. One call for all, since
    most of it is start-up."""
    folder, paths = tmp_path_factory.mktemp("mutants"), {path.name: path for path in templates.paths()}
    for number, mutant in enumerate(load()):
        if CFN_LINT in mutant["caught_by"]:
            path = paths[mutant["name"]] = folder / f"{number}.json"
            path.write_text(json.dumps(mutate(stacks, mutant).templates[mutant["stack"]]))
    found = lint(paths.values())
    return {name: found.get(str(path), []) for name, path in paths.items()}
