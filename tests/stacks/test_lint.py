"""cfn-lint finds nothing: neither errors nor warnings."""

import json
import pathlib
import subprocess
import sys

import resolve
from stacks import summary


def lint(paths):
    """What cfn-lint says about templates, by file: lines of rule and message. One call, since most of it is start-up."""
    command = [pathlib.Path(sys.executable).parent / "cfn-lint", "--format", "json", "--regions", resolve.REGION, "--", *map(str, paths)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ended.stdout.strip(), ended.stderr
    found = {}
    for match in json.loads(ended.stdout):
        at = "/".join(map(str, match["Location"]["Path"] or [match["Location"]["Start"]["LineNumber"]]))
        found.setdefault(match["Filename"], []).append(f"{match['Rule']['Id']} {at}: {match['Message']}")
    return found


def test_cfn_lint_finds_nothing():
    found = lint(resolve.templates.paths())
    assert not found, summary(f"{file}: {line}" for file, lines in found.items() for line in lines)
