"""Every command of every page for operators, run as it stands against the stacks on an emulated AWS. What it does not know is in
walked.yaml, with the reason."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

import alarms
import test_runbooks
from deployment import Deployment
from emulator import ROOT, Emulator
from walked import Walk, filled, texts

TABLE = yaml.safe_load((ROOT / "tests/stacks/walked.yaml").read_text())
PAGES = test_runbooks.pages()
# A text that explains a command and is none.
EXPLAINS = re.compile(r"^\w+ (STACK|GROUP|OUTPUT|NAMESPACE|\[MINUTES\])\b|^\w+ \[MINUTES\]")
seen = {kind: set() for kind in TABLE}
counts = {"pages": 0, "texts": 0, "calls": 0, "ran": 0, "unknown": 0, "refused": 0, "elsewhere": 0}

IMAGES = ("ami-0123456789abcdef0", "ami-0123456789abcdef1")


class Filled(Deployment):
    """The environment dev with values of ours, where it does not matter how a person comes by them."""

    def __init__(self, folder):
        self.emulator = Emulator(folder)
        zone = self.client("route53").create_hosted_zone(Name="salebell.test", CallerReference="1")["HostedZone"]["Id"]
        self.values = {
            "OrdinaryEmail": "ops@salebell.test",
            "DomainName": "dev.salebell.test",
            "HostedZoneId": zone.removeprefix("/hostedzone/"),
            "ImageId": IMAGES[0],
            "ExampleSubscriber": "on",
        }

    def stop(self):
        self.emulator.stop()


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    """All stacks, with an operator who comes by a role and a file of parameters that is filled in."""
    folder = tmp_path_factory.mktemp("walk")
    deployment = Filled(folder)
    emulator, where = deployment.emulator, folder / "cloudformation"
    shutil.copytree(ROOT / "cloudformation", where)
    file = where / "parameters" / "dev.json"
    parameters = json.loads(file.read_text())
    for stack, values in parameters.items():
        parameters[stack] = {name: deployment.values.get(name, value) for name, value in values.items()}
    parameters.setdefault("service", {})["ImageId"] = IMAGES[0]
    # The emulator hands no second factor on.
    parameters.setdefault("access", {})["RequireMfa"] = "off"
    file.write_text(json.dumps(parameters))
    emulator.run("deploy", "--environment=dev", "--yes", f"--folder={where}")
    role = deployment.client("sts").assume_role(RoleArn="arn:aws:iam::000000000000:role/Admin", RoleSessionName="anna")["Credentials"]
    emulator.environment |= {"AWS_ACCESS_KEY_ID": role["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": role["SecretAccessKey"],
                             "AWS_SESSION_TOKEN": role["SessionToken"]}  # fmt: skip
    walk = Walk(folder, emulator, where)
    walk.client = deployment.client
    walk.first_url = deployment.settings()["database/url"]
    walk.first_key = walk.client("secretsmanager").get_secret_value(SecretId=deployment.outputs("data")["WebhookSecretArn"])["SecretString"]
    tags = [{"Key": "Project", "Value": "salebell"}, {"Key": "Environment", "Value": "dev"}]
    ec2 = deployment.client("ec2")
    made = ec2.run_instances(ImageId=ec2.describe_images()["Images"][0]["ImageId"], MinCount=1, MaxCount=1,
                             TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])  # fmt: skip
    walk.values = [
        (r"\bprod\b", "dev"),
        ("i-…", made["Instances"][0]["InstanceId"]),
        ("ami-…", IMAGES[1]),
        ("sg-…", deployment.outputs("network")["DatabaseSecurityGroup"]),
        (r"(nat|eipalloc)-…", r"\1-0123456789abcdef0"),
        ("Version=…", "Version=1.2.3"),
        (r"--new-db-instance-identifier …", "--new-db-instance-identifier another"),
        (r"--db-instance-identifier …", f"--db-instance-identifier {deployment.resources('data')['Writer']}"),
        ("--from … --to … --destination …", "--from 0 --to 1 --destination archive"),
        ("(CertificateArn=|--rule-arn )…", r"\1arn:aws:acm:eu-central-1:000000000000:certificate/0a"),
        ("REQUEST_ID=…", "REQUEST_ID=0a"),
        ("…", "0a0a0a0a"),
    ]
    yield walk
    walk.stop()
    emulator.stop()


def judged(words, code, error):
    """What became of a call: `ran`, or the kind and the row of the table that it is in; None where it is in none."""
    if words[0] not in ("aws", "make"):
        return ("ran", None) if words[1:3] == ["boot", "--check"] and code == 0 else ("elsewhere", words[0])
    if code == 0:
        return "ran", None
    if words[:2] == ["make", "status"] and re.search(r"need a person|needs a person", error):
        return "ran", None
    name = " ".join(words[1:3]) if words[0] == "aws" else " ".join(words[:2])
    if name in TABLE["unknown"] and re.search(r"Unknown \w+ ?action|Unknown action|\(400\) when|Read timeout", error):
        return "unknown", name
    if name in TABLE["refused"] and re.search(TABLE["refused"][name][0], error):
        return "refused", name
    return None


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_run_as_they_stand(dev, name):
    counts["pages"] += 1
    begin, problems = len(dev.calls), []
    found = [text for text in texts(PAGES[name], test_runbooks.functions() | {"aws", "make", "salebell"}) if not EXPLAINS.search(text)]
    # `aws sns publish` in a sentence only names a command.
    found = [text for text in found if not re.fullmatch(r"(aws|make|salebell)( [a-z0-9-]+){1,2}", text)]
    counts["texts"] += len(found)
    # In one shell, from the top to the end: a step knows what the one before has put down.
    done = dev.shell(filled("\n".join(found), dev.values))
    for words, code, error in dev.calls[begin:]:
        counts["calls"] += 1
        verdict = judged(words, code, error)
        if verdict is None:
            problems.append(f"{' '.join(words)}\n    ended with {code}: {error.strip()[-400:]}")
        else:
            counts[verdict[0]] += 1
            seen.setdefault(verdict[0], set()).add(verdict[1])
    problems += re.findall(r"^(?:bash|scripts/\S+): .*(?:not found|syntax error|unbound).*$", done.stderr, re.M)
    assert not problems, "\n" + "\n".join(problems)


def test_after_their_page_the_new_key_seals_and_the_old_one_opens(dev):
    secrets = dev.client("secretsmanager")
    (secret,) = [one["Name"] for one in secrets.list_secrets()["SecretList"] if "/webhook/" in one["Name"]]
    keys = secrets.get_secret_value(SecretId=secret)["SecretString"].strip().split(",")
    versions = secrets.list_secret_version_ids(SecretId=secret, IncludeDeprecated=True)["Versions"]
    assert len(keys) == 2 and len(versions) >= 2 and all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)
    assert keys[0] != keys[1] == dev.first_key


def test_on_their_page_instances_are_told_of_the_restored_database(dev):
    told = [dict(zip(words, words[1:])) for words, code, _ in dev.calls if words[1:3] == ["ssm", "put-parameter"] and code == 0]
    (value,) = {one["--value"] for one in told if one["--name"] == "/salebell/dev/database/url"}
    assert re.fullmatch(r"postgres://app@[^/]+/salebell\?sslmode=verify-full&sslrootcert=/etc/salebell/rds.pem", value)
    assert value != dev.first_url


def test_what_cannot_be_run_is_still_in_a_page(dev):
    """After all pages: no row of the table is left over."""
    if counts["pages"] < len(PAGES):
        pytest.skip("wants all pages")
    print("\n" + ", ".join(f"{value} {name}" for name, value in counts.items()))
    left = [f"{kind}: {row}" for kind, rows in TABLE.items() for row in sorted(set(rows) - seen[kind])]
    assert not left
    assert len(PAGES) >= len(alarms.pages()) + 5 and counts["ran"] > 300
