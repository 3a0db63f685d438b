"""Each resource is in the stack where one looks for it (places.yaml)."""

import pathlib

import yaml

from stacks import summary, templates

PLACES = yaml.safe_load((pathlib.Path(__file__).parent / "places.yaml").read_text())


def test_resources_are_in_their_place(stacks):
    problems = []
    for stack, template in stacks.templates.items():
        allowed = PLACES["everywhere"] + PLACES.get(stack, [])
        for name, resource in template["Resources"].items():
            kind = resource["Type"]
            if not any(kind == one or kind.startswith(one + "::") for one in allowed):
                problems.append(f"{stack}: {name} is a {kind}")
    assert not problems, summary(problems)


def test_all_stacks_are_there_and_no_others():
    assert [templates.name(path) for path in templates.paths()] == [stack for stack in PLACES if stack != "everywhere"]
