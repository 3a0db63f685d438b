"""What make hands on to the operator's commands: each value as it was typed."""

import re
import shlex
import subprocess

import pytest

from resolve import ROOT


def test_make_hands_over_what_it_is_given():
    words = ["ENV=dev", "STACK=service", "REVERT=1", "YES=1", "REPLACE=1", "PARAMETERS=ImageId=ami-1 Gates=off"]
    said = subprocess.run(["make", "--no-print-directory", "-n", "deploy", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = "deploy --environment=dev --stack=service --revert --yes --replace --parameters ImageId=ami-1 Gates=off"
    assert shlex.split(said.stdout) == ["scripts/stacks.sh", *wanted.split()]
    for command in ("status", "destroy"):
        said = subprocess.run(["make", "-n", command, "ENV=dev"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert shlex.split(said.stdout)[:3] == ["scripts/stacks.sh", command, "--environment=dev"]
    for value, asks in [("1", False), ("0", True), ("no", True), ("", True)]:
        words = ["make", "-n", "destroy", "ENV=dev", f"YES={value}"]
        said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        assert ("--yes" not in shlex.split(said.stdout)) == asks, value
    words = ["UrgentEndpoint=https://pager.test/?a=1&b=$2;c='d'", "Gates=off"]
    said = subprocess.run(["make", "-n", "deploy", f"PARAMETERS={' '.join(words)}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shlex.split(said.stdout)[-2:] == words


# By target: the variables that are one value each.
VALUES = {
    "deploy": "ENV STACK",
    "status": "ENV",
    "destroy": "ENV",
    "shell": "ENV INSTANCE TICKET PERSON",
    "logs": "ENV REQUEST_ID SINCE LEVEL GROUP",
    "mute": "ENV MINUTES REASON",
    "change-sets": "ENV TO",
    "smoke": "ENV",
    "verify-image": "IMAGE",
    "migrate": "IMAGE_NAME",
    "pipeline-profile": "ENV ACCOUNT ROLE",
    "rollout": "ENV IMAGE CANARY GATES MINUTES MIN_REQUESTS",
    "rollback": "ENV IMAGE",
}


@pytest.mark.parametrize("target, name", [(target, name) for target, names in VALUES.items() for name in names.split()])
def test_make_hands_over_a_value_as_it_was_typed(target, name):
    """Neither make nor a shell reads what is in it."""
    for value in ("it's", "x'; touch made; '", "$(error read by make)", "a b", "$HOME `id`"):
        said = subprocess.run(["make", "-n", target, f"{name}={value}"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert value in {word.removeprefix(word.split("=")[0] + "=") for word in shlex.split(said.stdout)} | set(shlex.split(said.stdout))


def test_every_value_that_make_hands_over_is_tried():
    recipes = dict(re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M))
    handed = {target: set(re.findall(r"\((?:call (?:whole|given),)(\w+)", recipe)) for target, recipe in recipes.items()}
    assert {target: names for target, names in handed.items() if names and target != "bake"} == {
        target: set(names.split()) for target, names in VALUES.items()
    }
    assert not re.findall(r"'\$\(\w+\)'", "".join(recipes.values()))
