"""Every setting of an instance has its place: a parameter that a stack writes, or a line in settings.yaml that says why its
default is right on AWS. What the stacks write together is a configuration that the binary takes.
"""

import functools
import itertools
import os
import pathlib
import re
import string
import subprocess
import tempfile
import tomllib

import yaml

import reference
from resolve import ENVIRONMENTS, ROOT, of_type
from stacks import summary, switched, templates

# Secrets that no stack makes: who does, and what is in them.
SECRETS = {
    # The master user of Aurora, by RDS.
    "rds!cluster": {"username": "app", "password": "not-the-real-one"},
    # By a person, before mail is switched on.
    "salebell/{environment}/email": {"user": "salebell", "password": "not-the-real-one"},
}
# What nobody may read who reads parameters.
SECRET_SETTINGS = {"webhook.encryption_keys", "database.password", "email.password"}


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
    """The stacks as they are in each environment, and in prod with each switch the other way. The settings of an image on trial
    are no environment's (test_pipelines.py)."""
    def own(resolved):
        return {stack: one for stack, one in resolved.items() if stack not in templates.TOOLS}

    for environment in ENVIRONMENTS:
        yield environment, environment, own(stacks.resolved(environment))
    for switch in stacks.switches():
        yield f"prod with {switched(switch)}", "prod", own(stacks.resolved("prod", **switch))


def test_settings_have_a_place(stacks):
    sets = [{setting(name) for name in written(resolved)} for _, _, resolved in everywhere(stacks)]
    always, reasons = set.intersection(*sets), default_on_aws()
    problems = [
        f"{name}: no stack writes it, or not always, and settings.yaml does not say why"
        for name in reference.settings().keys() - always - reasons.keys()
    ]
    problems += [f"{name}: settings.yaml says why not, and yet a stack writes it always" for name in always & reasons.keys()]
    problems += [f"{name}: it is in settings.yaml, and no setting" for name in reasons.keys() - reference.settings().keys()]
    problems += [f"{name}: settings.yaml has no reason" for name, reason in reasons.items() if not reason]
    assert not problems, summary(problems)


def test_parameters_are_settings(stacks):
    problems = []
    for label, environment, resolved in everywhere(stacks):
        for name, (properties, stack) in written(resolved).items():
            if not name.startswith(f"/salebell/{environment}/") or setting(name) not in reference.settings():
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


def generated(secret):
    """What Secrets Manager would make of GenerateSecretString: the letters that it may take, over and over."""
    how = secret["GenerateSecretString"]
    kinds = {
        "ExcludeNumbers": string.digits,
        "ExcludeLowercase": string.ascii_lowercase,
        "ExcludeUppercase": string.ascii_uppercase,
        "ExcludePunctuation": string.punctuation,
    }
    letters = "".join(kind for name, kind in kinds.items() if how.get(name) not in (True, "true"))
    letters = [letter for letter in letters if letter not in how.get("ExcludeCharacters", "")]
    return "".join(itertools.islice(itertools.cycle(letters), int(how.get("PasswordLength", 32))))


def secret_value(value, environment, resolved):
    """What `salebell boot` would find under `secret:<name or ARN>#<key>`; None if nobody makes it."""
    name, _, key = value.removeprefix("secret:").partition("#")
    for one in resolved.values():
        for made, resource in of_type(one, "AWS::SecretsManager::Secret"):
            if name in (one["Refs"][made], one["Names"][made]) and not key:
                return generated(resource["Properties"])
    for known, content in SECRETS.items():
        if known.format(environment=environment) in name:
            return content.get(key)
    return None


def configuration(environment, resolved):
    """What `salebell boot` would write for the services: the appliance's settings below those of the parameters."""
    settings = tomllib.loads((ROOT / "systemd" / "salebell" / "appliance.toml").read_text())
    settings.setdefault("aws", {}).update(region="eu-central-1", parameters=f"/salebell/{environment}")
    for name, (properties, _) in written(resolved).items():
        value = str(properties["Value"])
        *areas, key = setting(name).split(".")
        table = settings
        for area in areas:
            table = table.setdefault(area, {})
        table[key] = secret_value(value, environment, resolved) if value.startswith("secret:") else value
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
        said = refusal("\n".join(as_toml(configuration(environment, resolved))) + "\n")
        problems += [(said, label)] * bool(said)
    assert not problems, summary(problems)


def test_secrets_are_named_and_made(stacks):
    """A parameter of type String is read by many: what is secret is a name in it, of a secret that is there."""
    problems = []
    for label, environment, resolved in everywhere(stacks):
        for name, (properties, _) in written(resolved).items():
            value = str(properties["Value"])
            if value.startswith("secret:") and secret_value(value, environment, resolved) is None:
                problems.append((f"{name}: nobody makes {value}", label))
            if setting(name) in SECRET_SETTINGS and not value.startswith("secret:"):
                problems.append((f"{name} is no secret", label))
    assert not problems, summary(problems)
