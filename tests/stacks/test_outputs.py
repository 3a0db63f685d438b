"""What goes from stack to stack is there, comes from an earlier one, and is used."""

from resolve import Unresolved
from stacks import ENVIRONMENTS, once, references, summary, walk

FOR_PEOPLE = "For people:"


@once
def imports(template):
    return ["/".join(map(str, path)) for path, node in walk(template) if isinstance(node, dict) and "Fn::ImportValue" in node]


def test_stacks_take_outputs_of_earlier_ones(stacks):
    problems, earlier = [], {}
    for stack, template in stacks.templates.items():
        for other, output, place in references(template):
            if other is None:
                problems.append(f"{stack}, {place}: StackName is salebell-${{Environment}}-<name>, by Fn::Sub")
            elif output not in earlier.get(other, ()):
                problems.append(f"{stack}, {place}: no earlier stack {other} has an output {output}")
        earlier[stack] = template.get("Outputs") or {}
    assert not problems, summary(problems)


def test_what_is_referred_to_is_made(stacks):
    problems = []
    for environment in ENVIRONMENTS:
        try:
            stacks.resolved(environment)
        except Unresolved as error:
            problems.append(str(error))
    if not problems:
        try:
            switches = stacks.switches()
        except Unresolved as error:
            problems.append(str(error))
    assert not problems, summary(problems)


def test_outputs_are_used_or_for_people(stacks):
    used = {(other, output) for template in stacks.templates.values() for other, output, _ in references(template)}
    problems = []
    for stack, template in stacks.templates.items():
        for name, output in (template.get("Outputs") or {}).items():
            for_people = output.get("Description", "").startswith(FOR_PEOPLE)
            if ((stack, name) in used) == for_people:
                problems.append(f"{stack}: {name} is {'for people, and yet used' if for_people else 'neither used nor for people'}")
    assert not problems, summary(problems)


def test_nothing_is_exported(stacks):
    problems = []
    for stack, template in stacks.templates.items():
        problems += [f"{stack}: {name}" for name, output in (template.get("Outputs") or {}).items() if "Export" in output]
        problems += [f"{stack}, {place}" for place in imports(template)]
    assert not problems, summary(problems)
