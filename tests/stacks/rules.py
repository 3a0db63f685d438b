"""Runs the guard rules of cloudformation/rules on a template."""

import functools
import json
import re

# Its own `run_checks` fails on reports of rules with `or`, and on those above 8 KiB, of which the wheel loses all but the
# end (findings/cfn-guard-rs-loses-long-reports.sh).
from cfn_guard_rs.cfn_guard_rs import run_checks_rs

from resolve import templates

FOLDER = templates.FOLDER / "rules"
RULE = re.compile(r"^rule (\w+).*?^}\n", re.MULTILINE | re.DOTALL)


@functools.cache
def files():
    """What stands before the rules of a file, and the rules by name, of each file."""
    found = []
    for path in sorted(FOLDER.glob("*.guard")):
        text = path.read_text()
        rules = {match[1]: match[0] for match in RULE.finditer(text)}
        assert len(rules) == len(re.findall(r"^rule ", text, re.MULTILINE)), f"{path.name}: a rule begins and ends a line"
        found.append((text[: text.index("\nrule ")] + "\n", rules))
    return found


def names():
    return [name for _, rules in files() for name in rules]


def document(resolved, template):
    """What the rules see: the resolved template, and what is named in encryption.guard."""
    resources = {}
    for name, resource in resolved["Resources"].items():
        resources[name] = {**resource, "LogicalId": name, "Id": resolved["Refs"][name], "Name": resolved["Names"][name]}
        resources[name].setdefault("Properties", {})
        if name in resolved["Arns"]:
            resources[name]["Arn"] = resolved["Arns"][name]
    return json.dumps(
        {
            "Stack": resolved["Stack"],
            "Environment": resolved["Environment"],
            "Parameters": resolved["Parameters"],
            "Resources": resources,
            "Template": template,
        }
    )


def failures(resolved, template, only=None):
    """The rules that a template breaks, each with the paths that the report names."""
    data, broken = document(resolved, template), {}
    for head, rules in files():
        wanted = {name: text for name, text in rules.items() if only in (None, name)}
        if not wanted or _passes(run_checks_rs(data, head + "".join(wanted.values()), False)):
            continue
        for name, text in wanted.items():
            report = run_checks_rs(data, head + text, False)
            if not _passes(report):
                paths = re.findall(r"(?:Path=|property \[)(/Resources/[^\[\"]+)", report)
                broken[name] = sorted({path.removeprefix("/Resources/") for path in paths})
    return broken


def _passes(report):
    try:
        return json.loads(report)["status"] != "FAIL"
    except ValueError:
        # The end of a long report of failures.
        return False
