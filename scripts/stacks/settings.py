"""The parameters of a stack (of the file, the command line, the existing stack), and the hash of instances' settings."""

import hashlib
import re
import tomllib

import templates

# Settings that instances read again every five minutes (docs/guides/settings-on-aws.md): no reason to replace them.
LIVE = "database/url database/reader_url database/user database/password webhook/encryption_keys auth/issuers".split()
# Values set by a rollout are kept: a deploy of templates must neither bring back an old image nor move traffic.
KEPT = re.compile(r"ImageId|Canary\w+")
# Not the commit, with which each deploy would change every resource.
VERSION = tomllib.loads((templates.ROOT / "Cargo.toml").read_text())["package"]["version"]
PLACEHOLDER = re.compile(r"REPLACE|(^|[@./])example\.(com|net|org)\b")


def parameters(name, template, from_file, existing, given, computed):
    """The values to deploy a stack with, and the problems with them. `given` comes from the command line."""
    values = {**from_file.get("all", {}), **from_file.get(name, {}), **given, **computed}
    present = {one["ParameterKey"] for one in (existing or {}).get("Parameters", [])}
    found, problems = [], []
    for key, declared in template.get("Parameters", {}).items():
        # The canary has the live group's values until a rollout sets others.
        origin = key if key in values else key.removeprefix("Canary")
        value = str(values.get(origin, ""))
        if key in present and key not in given and KEPT.fullmatch(key):
            found.append({"ParameterKey": key, "UsePreviousValue": True})
        elif origin in values and value not in map(str, declared.get("AllowedValues", [value])):
            problems.append(f"{name}: {key} is {value!r}, and must be one of {', '.join(map(str, declared['AllowedValues']))}")
        elif origin in values and not PLACEHOLDER.search(value):
            found.append({"ParameterKey": key, "ParameterValue": value})
        elif origin == key and (key in values or "Default" not in declared):
            problems.append(f"{name}: {key} {f'is still the placeholder {value!r}' if value else 'has no value'}")
    return found, problems


def settings_hash(account):
    """Changes with each setting that instances read only when they start, so that a change of one replaces them."""
    path = f"/salebell/{account.environment}/"
    found = account.pages("ssm", "get_parameters_by_path", "Parameters", Path=path, Recursive=True)
    settings = sorted((one["Name"].removeprefix(path), one["Value"]) for one in found)
    text = "".join(f"{name}={value}\n" for name, value in settings if name not in LIVE)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
