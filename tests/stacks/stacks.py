"""All templates together, and what they are in each environment: what the tests of this folder look at."""

import copy
import functools
import json

import cfnlint
import yaml

import resolve
import templates
from resolve import ENVIRONMENTS, ROOT, of_type  # noqa: F401

SCHEMAS = resolve.pathlib.Path(cfnlint.__file__).parent / "data" / "schemas"


# Of parameters that may be left empty.
SAMPLES = {
    "BlockedCountries": "KP",
    "HostedZoneId": "Z0123456789ABCDEFGHIJ",
    "ToolsAccount": resolve.ACCOUNTS["tools"],
}


class Stacks:
    """The templates and their texts by the name of the stack, in the order of deployment. Tests do not change them."""

    folder = templates.FOLDER

    def __init__(self, texts=None, by_name=None):
        self.texts = texts or {templates.name(path): path.read_text() for path in templates.paths()}
        self.templates = by_name or {stack: yaml.load(text, templates.Loader) for stack, text in self.texts.items()}
        self._resolved = {}

    def resolved(self, environment, **parameters):
        """All stacks as they are in an environment. `parameters` go to each stack that has a parameter of that name."""
        key = (environment, *sorted(parameters.items()))
        if key not in self._resolved:
            outputs, resolved = {}, {}
            for stack, template in self.templates.items():
                declared = template.get("Parameters") or {}
                given = {name: value for name, value in parameters.items() if name in declared}
                resolved[stack] = _resolve(template, environment, given, outputs, stack)
                outputs[stack] = {name: output["Value"] for name, output in resolved[stack]["Outputs"].items()}
            self._resolved[key] = resolved
        return self._resolved[key]

    def variants(self, only=None):
        """Everything that can be deployed, one switch at a time: pairs of a label and a resolved stack. The three
        environments as their files say, then prod with each other value that a parameter may have."""
        for environment in ENVIRONMENTS:
            for stack, resolved in self.resolved(environment).items():
                if only in (None, stack):
                    yield f"{stack} in {environment}", resolved
        for name, value, users in self.switches():
            for stack in users:
                if only in (None, stack):
                    yield f"{stack} in prod with {name}={value}", self.resolved("prod", **{name: value})[stack]

    def switches(self):
        """Each value of a parameter with AllowedValues that is not its value in prod, and one of those that may be left
        empty, with the stacks that have it."""
        values = {}
        for stack, template in self.templates.items():
            for name, parameter in (template.get("Parameters") or {}).items():
                if name == "Environment":
                    continue
                sample = [SAMPLES.get(name, "something")] if parameter.get("Default") == "" else []
                for value in parameter.get("AllowedValues", sample):
                    if str(value) != self.resolved("prod")[stack]["Parameters"][name]:
                        values.setdefault((name, str(value)), []).append(stack)
        return [(name, value, users) for (name, value), users in values.items()]

    def changed(self, stack, change):
        """The same with one template changed by `change(template)`."""
        template = copy.deepcopy(self.templates[stack])
        change(template)
        return Stacks(self.texts, {**self.templates, stack: template})

    def rewritten(self, stack, text):
        """The same with the text of one template."""
        return Stacks({**self.texts, stack: text}, {**self.templates, stack: yaml.load(text, templates.Loader)})


_known = {}


def _resolve(template, environment, parameters, outputs, stack):
    """resolve(), once for each template and what it depends on: most stacks are the same in most variants."""
    key = (id(template), environment, stack, json.dumps([parameters, outputs]))
    if key not in _known:
        # The template is kept, so that no other gets its id.
        _known[key] = (template, resolve.resolve(template, environment, parameters, outputs, stack))
    return _known[key][1]


@functools.cache
def _schema_files():
    return json.loads((SCHEMAS / "providers" / f"{resolve.REGION}.json").read_text())


@functools.cache
def schema(kind):
    """CloudFormation's schema of a type of resource, as cfn-lint ships it."""
    return json.loads((SCHEMAS / "resources" / f"{_schema_files()[kind]}.json").read_text())


def walk(node, path=()):
    """Every dictionary and list in `node`, and every value, with the path to it."""
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, (*path, index))
