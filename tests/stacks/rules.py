"""Runs the guard rules of cloudformation/rules on a template."""

import functools
import json
import re

# Its own `run_checks` fails on reports of rules with `or`, and on those above 8 KiB, of which the wheel loses all but the
# end (findings/cfn-guard-rs-loses-long-reports.sh).
from cfn_guard_rs.cfn_guard_rs import run_checks_rs

from resolve import templates

FOLDER = templates.FOLDER / "rules"
SECTIONS = ("Stack", "Environment", "Parameters", "TypesOfParameters")
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


@functools.cache
def _asked(rules):
    """The types of resources that rules name, and every word in them. No types: they are about all."""
    kinds = set() if "Type !=" in rules else set(re.findall(r"'(AWS::\w+::\w+)'", rules))
    return kinds, set(re.findall(r"\w+", rules))


def document(resolved, template, rules):
    """What rules see of a stack, and no more than they ask for: the same document has the same verdict. It is the
    resolved template, with what encryption.guard says that is added."""
    (kinds, words), resources = _asked(rules), {}
    for name, resource in resolved["Resources"].items():
        if resource["Type"] in kinds or not kinds:
            known = {"Type": resource["Type"], "LogicalId": name, "Id": resolved["Refs"][name]}
            known |= {"Name": resolved["Names"][name], "Arn": resolved["Arns"].get(name)}
            known |= {key: value for key, value in resource.items() if key in words}
            properties = resource.get("Properties") or {}
            known["Properties"] = {key: value for key, value in properties.items() if key in words}
            resources[name] = known
    whole = {
        **resolved,
        "Resources": resources,
        "Parameters": {key: value for key, value in resolved["Parameters"].items() if key in words},
        "TypesOfParameters": {key: one["Type"] for key, one in (template.get("Parameters") or {}).items()},
    }
    return json.dumps({key: whole[key] for key in (*SECTIONS, "Resources") if key in words}) if resources else ""


def failures(resolved, template):
    """The rules that a template breaks, each with the paths that the report names."""
    broken = {}
    for head, rules in files():
        text = head + "".join(rules.values())
        data = document(resolved, template, text)
        if not data or not _report(data, text):
            continue
        for name, rule in rules.items():
            if report := _report(data, head + rule):
                paths = re.findall(r"(?:Path=|property \[)(/Resources/[^\[\"]+)", report)
                broken[name] = sorted({path.removeprefix("/Resources/") for path in paths})
    return broken


@functools.cache
def _report(data, rules):
    """What is wrong; nothing, if nothing is."""
    report = run_checks_rs(data, rules, False)
    try:
        return report if json.loads(report)["status"] == "FAIL" else ""
    except ValueError:
        # The end of a long report, and long are only those of failures.
        return report
