"""Calls cfn-lint."""

import json
import pathlib
import subprocess
import sys

from resolve import REGION

# As mutants name it.
CFN_LINT = "cfn-lint"


def lint(paths):
    """What cfn-lint says about templates, by file: lines of rule and message."""
    program = pathlib.Path(sys.executable).parent / "cfn-lint"
    command = [program, "--format", "json", "--regions", REGION, "--", *map(str, paths)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ended.stdout.strip(), ended.stderr
    found = {}
    for match in json.loads(ended.stdout):
        at = "/".join(map(str, match["Location"]["Path"] or [match["Location"]["Start"]["LineNumber"]]))
        found.setdefault(match["Filename"], []).append(f"{match['Rule']['Id']} {at}: {match['Message']}")
    return found
