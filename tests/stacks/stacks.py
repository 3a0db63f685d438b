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


# What is switched together, since one alone is refused or has no meaning.
TOGETHER = [
    {"NatMode": "none", "InterfaceEndpoints": "on"},
    {"ToolsAccount": resolve.ACCOUNTS["tools"], **{f"{one.capitalize()}Account": resolve.ACCOUNTS[one] for one in ENVIRONMENTS}},
    {"ReleasesBucket": "salebell-tools-pipelines-Artifacts", "ToolsAccount": resolve.ACCOUNTS["tools"], **{f"{one.capitalize()}Account": resolve.ACCOUNTS[one] for one in ENVIRONMENTS}},
    {"Vpc": "vpc-0a1b2c3d", "Subnet": "subnet-0a1b2c3d"},
    {"DevGate": "salebell-dev-service-ServiceGate-1", "StageGate": "salebell-stage-service-ServiceGate-1", "ProdGate": "salebell-prod-service-ServiceGate-1"},
    {"SmtpUrl": "smtps://mail.example.com", "MailFrom": "Salebell <salebell@example.com>", "StatsMailTo": "ops@example.com"},
]
# Of parameters that may be left empty, or that have no list of values.
SAMPLES = {
    "BlockedCountries": "KP",
    "DevAccount": resolve.ACCOUNTS["dev"],
    "HostedZoneId": "Z0123456789ABCDEFGHIJ",
    "ProdAccount": resolve.ACCOUNTS["prod"],
    "StageAccount": resolve.ACCOUNTS["stage"],
    "ImageKeyArn": f"arn:aws:kms:{resolve.REGION}:{resolve.ACCOUNTS['tools']}:key/images",
    "OidcSubject": "repo:you/salebell:ref:refs/heads/main",
    "PeopleAccount": "555566667777",
    "SubscriberAccounts": "666677778888",
}


def switched(switch):
    return ", ".join(f"{name}={value}" for name, value in switch.items())


class Stacks:
    """The templates and their texts by the name of the stack, in the order of deployment. Tests do not change them."""

    folder = templates.FOLDER

    def __init__(self, texts=None, by_name=None, original=None):
        self.texts = texts or {templates.name(path): path.read_text() for path in templates.paths()}
        self.templates = by_name or {stack: yaml.load(text, templates.Loader) for stack, text in self.texts.items()}
        self.original = original
        self._resolved, self._switches, self._known = {}, None, None

    def resolved(self, environment, **parameters):
        """All stacks as they are in an environment. `parameters` go to each stack that has a parameter of that name."""
        key = (environment, *sorted(parameters.items()))
        if key not in self._resolved:
            outputs, resolved = {}, {}
            for stack, template in self.templates.items():
                declared = template.get("Parameters") or {}
                given = {name: value for name, value in parameters.items() if name in declared}
                # Those of later stacks, and of none, are not there.
                taken = {other: outputs.get(other, {}) for other, _, _ in references(template) if other}
                resolved[stack] = _resolve(template, environment, given, taken, stack)
                outputs[stack] = {name: output["Value"] for name, output in resolved[stack]["Outputs"].items()}
            self._resolved[key] = resolved
        return self._resolved[key]

    def variants(self, only=None):
        """Everything that can be deployed, one switch at a time: pairs of a label and a resolved stack. The three
        environments as their files say, then prod with each other value that a parameter may have."""
        for environment in ENVIRONMENTS:
            for stack, resolved in self.resolved(environment).items():
                if only in (None, stack):
                    yield environment, resolved
        for switch in self.switches():
            whole = self.resolved("prod", **switch)
            for stack, template in self.templates.items():
                if only in (None, stack) and (template.get("Parameters") or {}).keys() & switch.keys():
                    yield f"prod with {switched(switch)}", whole[stack]

    def news(self, only=None):
        """The variants; of a mutant, those that are not as they were. For tests that look at each one by itself."""
        for label, resolved in self.variants(only):
            if self.original is None or id(resolved) not in self.original.known():
                yield label, resolved

    def known(self):
        """The ids of all variants; each is made once."""
        if self._known is None:
            self._known = {id(resolved) for _, resolved in self.variants()}
        return self._known

    def switches(self):
        """Parameters and values that differ from those of prod: each one that has AllowedValues or may be left empty, with
        each of its values, and TOGETHER. What the Rules of a template refuse is left out."""
        if self._switches is None:
            switches = self._all_switches()
            self._switches = [switch for switch in switches if not self.refused("prod", **switch)]
        return self._switches

    def _all_switches(self):
        switches = list(TOGETHER)
        for stack, template in self.templates.items():
            for name, parameter in (template.get("Parameters") or {}).items():
                sample = [SAMPLES.get(name, "something")] if parameter.get("Default") == "" else []
                for value in parameter.get("AllowedValues", sample):
                    switch = {name: str(value)}
                    usual = str(value) == self.resolved("prod")[stack]["Parameters"][name]
                    if name != "Environment" and not usual and switch not in switches:
                        if "AllowedValues" in parameter or not any(name in together for together in TOGETHER):
                            switches.append(switch)
        return switches

    def refused(self, environment, **parameters):
        """What the Rules of the templates have against parameters."""
        return [text for one in self.resolved(environment, **parameters).values() for text in one["Refused"]]

    def changed(self, stack, change):
        """The same with one template changed by `change(template)`."""
        template = copy.deepcopy(self.templates[stack])
        change(template)
        return Stacks(self.texts, {**self.templates, stack: template}, self)

    def rewritten(self, stack, text):
        """The same with the text of one template."""
        return Stacks({**self.texts, stack: text}, {**self.templates, stack: yaml.load(text, templates.Loader)}, self)


def once(look):
    """Calls a function of a template once for each, since a mutant leaves all but one as they were."""
    # The template is kept, so that no other gets its id.
    seen = {}

    @functools.wraps(look)
    def remembered(template, *more):
        key = (id(template), *more)
        if key not in seen:
            seen[key] = (template, look(template, *more))
        return seen[key][1]

    return remembered


@once
def _resolved(template, environment, stack, more):
    parameters, outputs = json.loads(more)
    return resolve.resolve(template, environment, parameters, outputs, stack)


def _resolve(template, environment, parameters, outputs, stack):
    """resolve(), once for each template and what it depends on: most stacks are the same in most variants."""
    return _resolved(template, environment, stack, json.dumps([parameters, outputs]))


@once
def references(template):
    """What a template takes from others by `Fn::GetStackOutput`: stack (None if it is no name of ours), output and place."""
    found, prefix = [], "salebell-${Environment}-"
    for path, node in walk(template):
        if isinstance(node, dict) and "Fn::GetStackOutput" in node:
            argument = node["Fn::GetStackOutput"]
            name = argument["StackName"]
            name = name.get("Fn::Sub", "") if isinstance(name, dict) else name
            stack = name.removeprefix(prefix) if isinstance(name, str) and name.startswith(prefix) else None
            found.append((stack, argument.get("OutputName"), "/".join(map(str, path))))
    return found


@functools.cache
def _schema_files():
    return json.loads((SCHEMAS / "providers" / f"{resolve.REGION}.json").read_text())


@functools.cache
def schema(kind):
    """CloudFormation's schema of a type of resource, as cfn-lint ships it."""
    return json.loads((SCHEMAS / "resources" / f"{_schema_files()[kind]}.json").read_text())


def summary(problems):
    """What a test has found, a line each: texts, or pairs of a text and where it is so."""
    places = {}
    for problem in problems:
        text, place = (problem, None) if isinstance(problem, str) else problem
        places.setdefault(text, []).append(place)
    lines = []
    for text, where in sorted(places.items()):
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        lines.append(text if where[0] is None else f"{text} ({where[0]}{more})")
    return "\n" + "\n".join(lines)


def walk(node, path=()):
    """Every dictionary and list in `node`, and every value, with the path to it."""
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, (*path, index))
