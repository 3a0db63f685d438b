"""AWS Control Tower's rules find nothing in the templates, or only what control-tower.yaml says is not followed.

They are asked about resolved resources, as Control Tower does it at a deploy. On templates as they are written they fail where
a property is `!GetAtt`, `Fn::GetStackOutput` or a parameter, since they know only some forms of functions.
"""

import json
import os
import pathlib
import platform
import re
import subprocess

import pytest

import skips
from resolve import ROOT

HERE = pathlib.Path(__file__).parent
KIND = re.compile(r"AWS::\w+::\w+")


@pytest.fixture(scope="module")
def pack():
    """The package of the rules, which has the program too. Its peers, the CDK, are not needed."""
    command = [ROOT / "scripts/lib/prepare-node.sh", "tests/stacks/control-tower.json"]
    ended = subprocess.run(command, env={**os.environ, "npm_config_omit": "peer"}, stdout=subprocess.PIPE, text=True, check=True)
    return pathlib.Path(ended.stdout.strip()) / "@cdklabs/cdk-validator-cfnguard"


def resources(stacks):
    """Each resource of each stack in each form that it has in some variant, with a key that names stack and resource."""
    found = {}
    for _, resolved in stacks.variants():
        for name, resource in resolved["Resources"].items():
            # Names of buckets are lower-case on AWS.
            text = re.sub(r"arn:aws:s3:::[^\"]+", lambda match: match[0].lower(), json.dumps(resource, sort_keys=True))
            found.setdefault((resolved["Stack"], name, text), json.loads(text))
    return {f"{stack}-{name}-{number}": one for number, ((stack, name, _), one) in enumerate(found.items())}


def walk(node):
    """All texts in a report, with the key that they stand at."""
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str):
                yield key, value
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def findings(report):
    for one in json.loads(report):
        for rule in one["not_compliant"]:
            texts = list(walk(rule))
            (id,) = {match for key, text in texts if key == "custom_message" for match in re.findall(r"\[(CT\.[\w.]+)\]", text)}
            names = {match for _, text in texts for match in re.findall(r"/Resources/\w+-(\w+)-\d+", text)}
            assert names, f"{id} is about nothing"
            yield from ((id, name, rule["Rule"]["name"]) for name in names)


def test_rules_of_control_tower(stacks, pack, tmp_path):
    program = pack / f"bin/ubuntu/{platform.machine()}/cfn-guard"
    there, asked = resources(stacks), {}
    kinds = {resource["Type"] for resource in there.values()}
    for path in (pack / "rules/control-tower/cfn-guard").rglob("*.guard"):
        about = kinds & set(KIND.findall(re.sub(r"(?m)^\s*#.*", "", path.read_text())))
        if about:
            asked.setdefault(frozenset(about), []).append(path)
    found = []
    # One call for each set of types: a report repeats what it was asked about.
    for about, paths in asked.items():
        document = tmp_path / "document.json"
        document.write_text(json.dumps({"Resources": {key: one for key, one in there.items() if one["Type"] in about}}))
        command = [program, "validate", "--data", document, "--structured", "--output-format", "json", "--show-summary", "none"]
        ended = subprocess.run([*command, "--rules", *paths], capture_output=True, text=True, check=False)
        assert ended.returncode in (0, 19), ended.stderr or ended.stdout
        found += findings(ended.stdout)
    problems = skips.problems(found, HERE / "control-tower.yaml")
    assert not problems, "\n" + "\n".join(problems)
