"""Every setting of an instance has its place: a parameter that a stack writes, or a line in settings.yaml that says why its
default is right on AWS. What the stacks write together is a configuration that the binary takes.
"""

import functools
import os
import pathlib
import re
import subprocess
import tempfile
import tomllib

import yaml

from resolve import ENVIRONMENTS, ROOT, of_type
from stacks import summary, switched

# What a secret holds, for the program to look at.
SECRETS = {
    "webhook.encryption_keys": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "database.user": "app",
    "database.password": "not-the-real-one",
    "email.user": "salebell",
    "email.password": "not-the-real-one",
}


@functools.cache
def documented():
    """The settings that docs/operations.md lists."""
    text = (ROOT / "docs" / "operations.md").read_text()
    text = text[text.index("\n## Configuration\n") :]
    return set(re.findall(r"^\| `([a-z0-9_]+(?:\.[a-z0-9_]+)+)` \|", text, re.MULTILINE))


@functools.cache
def default_on_aws():
    return yaml.safe_load((pathlib.Path(__file__).parent / "settings.yaml").read_text())


def written(resolved):
    """The parameters of all stacks of an environment by name, with their values and the stack."""
    return {
        resource["Properties"]["Name"]: (resource["Properties"], stack)
        for stack, one in resolved.items()
        for _, resource in of_type(one, "AWS::SSM::Parameter")
    }


def setting(name):
    """`database.url` of `/salebell/prod/database/url`."""
    return ".".join(name.split("/")[3:])


def everywhere(stacks):
    """The stacks as they are in each environment, and in prod with each switch the other way."""
    for environment in ENVIRONMENTS:
        yield environment, environment, stacks.resolved(environment)
    for switch in stacks.switches():
        yield f"prod with {switched(switch)}", "prod", stacks.resolved("prod", **switch)


def test_settings_have_a_place(stacks):
    sets = [{setting(name) for name in written(resolved)} for _, _, resolved in everywhere(stacks)]
    always, reasons = set.intersection(*sets), default_on_aws()
    problems = [
        f"{name}: no stack writes it, or not always, and settings.yaml does not say why"
        for name in documented() - always - reasons.keys()
    ]
    problems += [f"{name}: settings.yaml says why not, and yet a stack writes it always" for name in always & reasons.keys()]
    problems += [f"{name}: it is in settings.yaml, and no setting" for name in reasons.keys() - documented()]
    problems += [f"{name}: settings.yaml has no reason" for name, reason in reasons.items() if not reason]
    assert not problems, summary(problems)


def test_parameters_are_settings(stacks):
    problems = []
    for label, environment, resolved in everywhere(stacks):
        for name, (properties, stack) in written(resolved).items():
            if not name.startswith(f"/salebell/{environment}/") or setting(name) not in documented():
                problems.append((f"{stack}: {name}", label))
            if properties["Type"] != "String":
                problems.append((f"{stack}: {name} is a {properties['Type']}", label))
    assert not problems, summary(problems)


def test_a_setting_is_written_by_one_stack(stacks):
    problems = []
    for label, _, resolved in everywhere(stacks):
        names = [
            resource["Properties"]["Name"]
            for one in resolved.values()
            for _, resource in of_type(one, "AWS::SSM::Parameter")
        ]
        problems += [(name, label) for name in set(names) if names.count(name) > 1]
    assert not problems, summary(problems)


def configuration(environment, parameters):
    """What `salebell boot` would write for the services: the appliance's settings below those of the parameters."""
    settings = tomllib.loads((ROOT / "systemd" / "salebell" / "appliance.toml").read_text())
    settings.setdefault("aws", {}).update(region="eu-central-1", parameters=f"/salebell/{environment}")
    for name, (properties, _) in parameters.items():
        value = str(properties["Value"])
        *areas, key = setting(name).split(".")
        table = settings
        for area in areas:
            table = table.setdefault(area, {})
        table[key] = SECRETS.get(setting(name), "unknown") if value.startswith("secret:") else value
    return settings


def as_toml(settings, path=()):
    values = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    lines = [f"[{'.'.join(path)}]"] * bool(path and values)
    for key, value in values.items():
        quoted = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'{key} = "{quoted}"')
    for key, value in settings.items():
        if isinstance(value, dict):
            lines += as_toml(value, (*path, key))
    return lines


@functools.cache
def binary():
    given = os.environ.get("SALEBELL_BINARY")
    built = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "salebell"
    path = pathlib.Path(given) if given else built
    assert path.exists(), f"{path} is not there: cargo build, or SALEBELL_BINARY"
    return path.resolve()


@functools.cache
def refusal(text):
    """What the program has against a configuration."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SALEBELL_", "CREDENTIALS_"))}
        command = [binary(), "check-config", "--config", file.name]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


def test_the_program_takes_what_the_stacks_write(stacks):
    problems = []
    for label, environment, resolved in everywhere(stacks):
        said = refusal("\n".join(as_toml(configuration(environment, written(resolved)))) + "\n")
        problems += [(said, label)] * bool(said)
    assert not problems, summary(problems)


def test_settings_name_no_secret_by_value(stacks):
    """A parameter of type String is read by many: what is secret is a name in it."""
    problems = []
    for label, _, resolved in everywhere(stacks):
        for name, (properties, _) in written(resolved).items():
            secret = setting(name) in SECRETS and setting(name) not in ("database.user", "email.user")
            if secret and not str(properties["Value"]).startswith("secret:"):
                problems.append((name, label))
    assert not problems, summary(problems)
