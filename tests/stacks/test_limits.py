"""The templates stay within CloudFormation's limits and ours, and plain: one knows what is deployed by reading them."""

import json
import re

from resolve import ENVIRONMENTS, templates
from stacks import once, summary, walk

BYTES, PARAMETERS, RESOURCES, DESCRIPTION = 51_200, 20, 500, 1_024
# 3,500 were wanted. The rest is IAM by name (800 lines) and alarms (600), which shrink by saying less alone, and the pipelines
# (600), which are 14 stages of the same few words; 36 more are the role of whoever is on call.
LINES = 5_266
# What an environment must say itself.
WITHOUT_DEFAULT = re.compile(r"^(Canary)?ImageId$|Domain|E?mail")
FUNCTIONS = {
    "Ref", "Condition", "Fn::And", "Fn::Base64", "Fn::Cidr", "Fn::Equals", "Fn::FindInMap", "Fn::GetAZs", "Fn::GetAtt",
    "Fn::GetStackOutput", "Fn::If", "Fn::Join", "Fn::Not", "Fn::Or", "Fn::Select", "Fn::Split", "Fn::Sub",
}
SECTIONS = {"AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Rules", "Mappings", "Conditions", "Resources", "Outputs"}


def test_templates_are_small_enough(stacks):
    problems = [f"{stack}: {len(text.encode())} bytes" for stack, text in stacks.texts.items() if len(text.encode()) >= BYTES]
    for stack, template in stacks.templates.items():
        count = len(template.get("Parameters") or {})
        problems += [f"{stack}: {count} parameters"] * (count > PARAMETERS)
        problems += [f"{stack}: {len(template['Resources'])} resources"] * (len(template["Resources"]) > RESOURCES)
    assert not problems, summary(problems)


def test_templates_together_are_short_enough(stacks):
    lines = sum(text.count("\n") for text in stacks.texts.values())
    assert lines < LINES


def test_parameters_explain_themselves(stacks):
    problems = []
    for stack, template in stacks.templates.items():
        for name, parameter in (template.get("Parameters") or {}).items():
            if not parameter.get("Description"):
                problems.append(f"{stack}: {name} has no description")
            if "Default" not in parameter and not WITHOUT_DEFAULT.search(name):
                problems.append(f"{stack}: {name} has no default")
    assert not problems, summary(problems)


def test_templates_and_outputs_say_what_they_are(stacks):
    problems = []
    for stack, template in stacks.templates.items():
        text = template.get("Description", "")
        if not text or len(text) > DESCRIPTION:
            problems.append(f"{stack}: its description has {len(text)} letters")
        outputs = template.get("Outputs") or {}
        problems += [f"{stack}: output {name}" for name, output in outputs.items() if not output.get("Description")]
    assert not problems, summary(problems)


@once
def other_functions(template):
    """Functions that only a transform knows, or that lock another stack."""
    return [
        f"{'/'.join(map(str, path))}: {function}"
        for path, node in walk({**template, "Rules": {}})
        if isinstance(node, dict)
        for function in node
        if str(function).startswith("Fn::") and function not in FUNCTIONS
    ]


def test_templates_are_plain(stacks):
    """No transform, no nested stack, nothing that runs code of ours at deploy time, no anchor of YAML."""
    problems = []
    for stack, template in stacks.templates.items():
        problems += [f"{stack}: section {name}" for name in template if name not in SECTIONS]
        for name, resource in template["Resources"].items():
            if re.match(r"AWS::CloudFormation::(Stack|Macro|CustomResource|WaitCondition)|Custom::|AWS::Lambda::", resource["Type"]):
                problems.append(f"{stack}: {name} is a {resource['Type']}")
        problems += [f"{stack}, {place}" for place in other_functions(template)]
        # Values of functions in Rules have only their long form on the emulator.
        text = stacks.texts[stack]
        problems += [f"{stack}: {match}" for match in re.findall(r"!(?:Contains|EachMemberIn|EachMemberEquals|RefAll|ValueOf|ValueOfAll)\b", text)]
        problems += [f"{stack}: {match.strip()}" for match in re.findall(r"(?m)^[^#\n]*?(?::|-) [&*][A-Za-z]\w*(?:\s*$| )", text)]
    assert not problems, summary(problems)


def test_parameter_files_fit_the_templates(stacks):
    """Each value is of a parameter that is there, and allowed."""
    problems = []
    for environment in ENVIRONMENTS:
        file = json.loads((templates.FOLDER / "parameters" / f"{environment}.json").read_text())
        for stack, values in file.items():
            known = stacks.templates if stack == "all" else {stack: stacks.templates.get(stack, {})}
            for name, value in values.items():
                declared = [t["Parameters"][name] for t in known.values() if name in (t.get("Parameters") or {})]
                if not declared:
                    problems.append(f"{environment}: {stack} has no parameter {name}")
                for parameter in declared:
                    allowed = [str(one) for one in parameter.get("AllowedValues", [])]
                    pattern = parameter.get("AllowedPattern")
                    if allowed and str(value) not in allowed:
                        problems.append(f"{environment}: {name} cannot be {value}")
                    if pattern and not re.fullmatch(pattern, str(value)):
                        problems.append(f"{environment}: {name} does not match {pattern}")
    assert not problems, summary(problems)
