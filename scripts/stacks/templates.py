"""Reads the CloudFormation templates: each as a dictionary in which every function has its long form."""

import pathlib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cloudformation"


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
    return yaml.load(pathlib.Path(path).read_text(), Loader)


def paths():
    """The files of all templates, in the order in which they are deployed."""
    return sorted(FOLDER.glob("[0-9][0-9]-*.yaml"))


def name(path):
    """The name of a template's stack without project and environment: `network` of 20-network.yaml."""
    return pathlib.Path(path).stem.split("-", 1)[1]


def stacks():
    """All templates by the name of their stack, in the order in which they are deployed."""
    return {name(path): load(path) for path in paths()}
