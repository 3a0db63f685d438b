"""Reads the CloudFormation templates, each as a dictionary in which every function has its long form, and parameter files."""

import json
import pathlib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cloudformation"
# Stacks of the pipelines' account, which no environment has.
TOOLS = ("pipelines", "delivery")


class Refusal(Exception):
    """The reason why a command stops, and what to do about it."""


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: `!Ref X` is {"Ref": "X"}, `!GetAtt A.B` is {"Fn::GetAtt": ["A", "B"]}."""


def _function(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", _function)
# A date such as 2012-10-17 is text to CloudFormation, and so are yes, no, on and off.
Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag != "tag:yaml.org,2002:timestamp" and not (tag == "tag:yaml.org,2002:bool" and first in "yYnNoO")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path):
    """The template in the file `path`."""
    try:
        return yaml.load(pathlib.Path(path).read_text(), Loader)
    except yaml.YAMLError as error:
        raise Refusal(f"{path}: {error}") from None


def check(given, known, where):
    """Refuses a parameter that no template has, and a value that is invalid in CloudFormation."""
    if not isinstance(given, dict):
        raise Refusal(f'{where}: must be values by name, such as {{"MinSize": 2}}, not {json.dumps(given)}')
    for key, value in given.items():
        if type(value) not in (str, int, float):
            raise Refusal(f"{where}: {key} must be text or a number, not {json.dumps(value)}")
    if unknown := sorted(set(given) - {key for template in known for key in template.get("Parameters", {})}):
        raise Refusal(f"{where}: no such parameter: {', '.join(unknown)}")


def values(environment, folder=None, known=None):
    """The parameter file of an environment: values for `all` stacks, and by the name of a stack. Without a file there are none.
    `known` are the templates by name that it is checked against."""
    path = (folder or FOLDER) / "parameters" / f"{environment}.json"
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise Refusal(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise Refusal(f'{path}: must be values by stack, such as {{"service": {{"MinSize": 2}}}}')
    for stack, given in found.items() if known else ():
        check(given, known.values() if stack == "all" else [known.get(stack, {})], f"{path.name}, {stack}")
    return found


def paths():
    """The files of all templates, in the order in which they are deployed."""
    return sorted(FOLDER.glob("[0-9][0-9]-*.yaml"))


def name(path):
    """The name of a template's stack without project and environment: `network` of 20-network.yaml."""
    return pathlib.Path(path).stem.split("-", 1)[1]


def stacks():
    """All templates by the name of their stack, in the order in which they are deployed."""
    return {name(path): load(path) for path in paths()}
