"""What the two pipelines of 91-delivery.yaml are made of, for the tests: their stages, the jobs of these, and what the jobs run."""

import dataclasses
import json
import re
import shlex

import yaml
from resolve import ROOT, of_type


@dataclasses.dataclass(frozen=True)
class Job:
    """An action of a stage that CodeBuild does."""

    stage: str
    action: str
    project: dict
    inputs: tuple
    outputs: tuple
    variables: dict

    @property
    def buildspec(self):
        return ROOT / self.project["Source"]["BuildSpec"]

    @property
    def role(self):
        """The name of the table of its role in cloudformation/calls."""
        return self.project["ServiceRole"].rsplit("salebell-tools-", 1)[1]

    @property
    def commands(self):
        return commands(self.buildspec)


def commands(buildspec):
    """The commands of a buildspec, of all phases."""
    phases = yaml.safe_load(buildspec.read_text())["phases"]
    return [command for phase in phases.values() for command in phase["commands"]]


def pipelines(stacks, **parameters):
    """The pipelines by the name of their resource, resolved."""
    resolved = stacks.resolved("prod", **parameters)["delivery"]
    return {name: one["Properties"] for name, one in of_type(resolved, "AWS::CodePipeline::Pipeline")}


def jobs(stacks, pipeline, **parameters):
    """The jobs of a pipeline in their order."""
    resolved = stacks.resolved("prod", **parameters)["delivery"]
    projects = {one["Properties"]["Name"]: one["Properties"] for _, one in of_type(resolved, "AWS::CodeBuild::Project")}
    for stage in pipelines(stacks, **parameters)[pipeline]["Stages"]:
        for action in stage["Actions"]:
            if action["ActionTypeId"]["Provider"] == "CodeBuild":
                given = json.loads(action["Configuration"].get("EnvironmentVariables", "[]"))
                inputs, outputs = ([one["Name"] for one in action.get(key, [])] for key in ("InputArtifacts", "OutputArtifacts"))
                variables = {one["name"]: one["value"] for one in given}
                project = projects[action["Configuration"]["ProjectName"]]
                yield Job(stage["Name"], action["Name"], project, tuple(inputs), tuple(outputs), variables)


def targets():
    """What the Makefile has: its targets with the text of their recipes."""
    text = (ROOT / "Makefile").read_text()
    found = {}
    for names, recipe in re.findall(r"^([a-z][a-z -]*):(?![=:])[^\n]*\n((?:\t[^\n]*\n)*)", text, re.M):
        for name in names.split():
            found[name] = found.get(name, "") + recipe
    return found


def made(command):
    """The targets and the variables of a command of make; None where it is another program."""
    words = shlex.split(command)
    if words[0] != "make":
        return None
    variables = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    return [word for word in words[1:] if "=" not in word and not word.startswith("-")], variables


def filters(pipeline):
    """The pairs of patterns (those that let in, those that keep out) by which a push starts a pipeline."""
    for push in pipeline["Triggers"][0]["GitConfiguration"]["Push"]:
        paths = push["FilePaths"]
        yield paths["Includes"], paths.get("Excludes", [])


def matches(pattern, path):
    """As CodePipeline's guide describes patterns: `*` stays within a folder, `**` does not."""
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    rule = "".join({"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(rule, path) is not None


def starts(pipeline, path):
    """Whether a change of the file starts the pipeline."""
    return any(
        any(matches(one, path) for one in includes) and not any(matches(one, path) for one in excludes)
        for includes, excludes in filters(pipeline)
    )
