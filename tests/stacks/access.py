"""Who may do what in an environment: requests decided by all policies of the templates together.

`World(stacks, "dev")` knows the roles with their policies and boundaries, and the policies of keys, buckets, queues,
topics, secrets and roles by ARN. `decide` has simulate.cjs decide requests that `World.request` and `World.ask` made.
"""

import atexit
import dataclasses
import functools
import json
import os
import re
import subprocess

import policies
from resolve import ACCOUNTS, REGION, ROOT

# An account that is none of ours.
STRANGER = "999900001111"

# What AWS says of every request.
ALWAYS = {"aws:SecureTransport", "aws:RequestedRegion", "aws:ViaAWSService", "aws:ResourceAccount", "aws:PrincipalArn",
          "aws:PrincipalAccount", "aws:PrincipalType", "aws:PrincipalIsAWSService"}  # fmt: skip

# Who may decrypt by a key, where its own policy is not what is asked about.
ANYBODY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]}


def delegating(account):
    """The policy that leaves it to the account's own policies, as KMS gives a key without one."""
    statement = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account}:root"}, "Action": "kms:*", "Resource": "*"}
    return {"Version": "2012-10-17", "Statement": [statement]}


@dataclasses.dataclass
class Role:
    """A role of a template, with what limits it."""

    stack: str
    id: str
    arn: str
    policies: list
    boundary: dict | None
    trust: dict
    properties: dict

    @property
    def name(self):
        return f"{self.stack}/{self.id}"

    @property
    def account(self):
        return self.arn.split(":")[4]

    @property
    def session(self):
        return self.arn.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + "/session"

    @property
    def documents(self):
        return [policy.document for policy in self.policies]


class World:
    """The roles and the policies of resources in one environment, from its resolved templates."""

    def __init__(self, environment, stacks, elsewhere=()):
        """`elsewhere`: the same of other environments, for who may assume their roles."""
        self.environment, self.account = environment, ACCOUNTS[environment]
        self.stacks = stacks
        self.policies = list(policies.find(self.stacks))
        self.resource_policies = dict(self._resource_policies())
        for other in elsewhere:
            for policy in policies.find(other):
                if policy.kind == "trust":
                    self.resource_policies.setdefault(other[policy.stack]["Arns"][policy.resource], policy.document)
        self.roles = {role.name: role for role in self._roles()}

    def fingerprint(self, names):
        """The same for environments whose policies, and what of `names` (pairs of a stack and an output) is in them, are
        the same."""
        parts = [(policy.where, policy.kind, policy.document) for policy in self.policies]
        outputs = [self.named(*name) for name in sorted(names)]
        roles = [(role.arn, role.properties) for role in self.roles.values()]
        return json.dumps([self.environment, parts, outputs, roles, sorted(self._keys.items())], sort_keys=True)

    def named(self, stack, name):
        """An output of a stack, or the ARN of a resource; nothing where there is none in this environment."""
        template = self.stacks.get(stack, {"Outputs": {}, "Arns": {}})
        return template["Outputs"].get(name, {}).get("Value") or template["Arns"].get(name)

    def resources(self, *kinds):
        """The resources of some types, as (stack, id, properties)."""
        for stack, template in self.stacks.items():
            for id, resource in template["Resources"].items():
                if resource["Type"] in kinds:
                    yield stack, id, resource.get("Properties", {})

    def arn(self, stack, id):
        return self.stacks[stack]["Arns"][id]

    def _roles(self):
        managed = {self.arn(s, id): properties for s, id, properties in self.resources("AWS::IAM::ManagedPolicy")}
        for stack, id, properties in self.resources("AWS::IAM::Role"):
            own = [p for p in self.policies if (p.stack, p.resource, p.kind) == (stack, id, "identity")]
            for arn in properties.get("ManagedPolicyArns", []):
                if arn in managed:
                    own.append(policies.Policy(stack, id, "managed", arn, managed[arn]["PolicyDocument"]))
            boundary = managed.get(properties.get("PermissionsBoundary"), {}).get("PolicyDocument")
            trust = properties["AssumeRolePolicyDocument"]
            yield Role(stack, id, self.arn(stack, id), own, boundary, trust, properties)

    def _resource_policies(self):
        """Pairs of the ARN of a resource and its policy."""
        for policy in self.policies:
            properties = self.stacks[policy.stack]["Resources"][policy.resource]["Properties"]
            if policy.kind in ("key", "trust", "file system"):
                yield self.arn(policy.stack, policy.resource), policy.document
            elif policy.kind == "bucket":
                yield f"arn:aws:s3:::{properties['Bucket']}", policy.document
            elif policy.kind == "queue":
                for url in properties["Queues"]:
                    yield _queue(url), policy.document
            elif policy.kind == "topic":
                yield from ((topic, policy.document) for topic in properties["Topics"])
            elif policy.kind == "secret":
                yield properties["SecretId"], policy.document

    def policy_of(self, resource):
        """The policy of a resource by its ARN, where it has one."""
        if resource.startswith("arn:aws:s3:::"):
            resource = resource.split("/")[0]
        if resource.startswith("arn:aws:kms:"):
            return self.resource_policies.get(resource) or delegating(resource.split(":")[4])
        return self.resource_policies.get(resource)

    @functools.cached_property
    def _keys(self):
        """The key of each thing that is encrypted, by ARN."""
        found = {}
        for stack, template in self.stacks.items():
            for id, resource in template["Resources"].items():
                properties = resource.get("Properties", {})
                key = properties.get("KmsMasterKeyId") or properties.get("KmsKeyId")
                for rule in properties.get("BucketEncryption", {}).get("ServerSideEncryptionConfiguration", []):
                    key = rule.get("ServerSideEncryptionByDefault", {}).get("KMSMasterKeyID")
                if key and id in template["Arns"]:
                    found[self.arn(stack, id)] = self.key(key)
        return found

    def key(self, name):
        """The ARN of a key by its ARN, its id or its alias."""
        if not name or name.startswith("arn:aws:kms:") and ":alias/" not in name:
            return name
        for stack, _, properties in self.resources("AWS::KMS::Alias"):
            if name.split(":")[-1] == properties["AliasName"]:
                return self.key(properties["TargetKeyId"])
        for stack, id, _ in self.resources("AWS::KMS::Key"):
            if name == self.stacks[stack]["Refs"][id]:
                return self.arn(stack, id)
        return None

    def key_of(self, resource):
        """The key of the templates by which a thing, or an object of a bucket, is encrypted."""
        return self._keys.get(resource.split("/")[0] if resource.startswith("arn:aws:s3:::") else resource)

    def request(self, role, action, resource, context, documents=None, policy=None):
        """A role's request. `documents`: policies in place of the role's; `policy`: in place of the resource's."""
        own = {
            "aws:PrincipalArn": role.arn,
            "aws:PrincipalAccount": role.account,
            "aws:PrincipalType": "AssumedRole",
            "aws:PrincipalIsAWSService": "false",
        }
        return {
            **self.ask(role.session, action, resource, {**own, **context}, policy, role.account),
            "identity": role.documents if documents is None else documents,
            "boundary": [role.boundary] if role.boundary else [],
        }

    def ask(self, principal, action, resource, context, policy=None, account=None):
        """A request of a service, or of somebody of another account. `account`: whose a bucket, or `*`, is."""
        named = resource.split(":")[4] if resource.count(":") >= 5 else ""
        account = named or account or self.account
        known = {
            "aws:SecureTransport": "true",
            "aws:RequestedRegion": REGION,
            "aws:ViaAWSService": "false",
            "aws:ResourceAccount": account,
        }
        return {
            "principal": principal,
            "action": action,
            "resource": resource,
            "account": account,
            "context": {**known, **context},
            "identity": [],
            "boundary": [],
            "policy": policy if policy is not None else self.policy_of(resource),
        }


def _queue(url):
    _, _, host, account, name = url.split("/")
    return f"arn:aws:sqs:{host.split('.')[1]}:{account}:{name}"


def encrypted(resource):
    """What the encryption context of a thing names: with a bucket key the bucket in place of the object."""
    return resource.split("/")[0] if resource.startswith("arn:aws:s3:::") else resource


# The simulator


@functools.cache
def _simulator():
    packages = subprocess.run(
        [ROOT / "scripts/lib/prepare-node.sh", "tests/stacks/package.json"], capture_output=True, text=True, check=True
    )
    process = subprocess.Popen(
        ["node", ROOT / "tests/stacks/simulate.cjs"],
        env={**os.environ, "NODE_PATH": packages.stdout.strip()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def _ask_simulator(question):
    process = _simulator()
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    assert answer, "simulate.cjs has ended"
    return json.loads(answer)


_decided, _texts = {}, {}


def _text(document):
    """A document as text. Documents are not changed, so that its place in memory tells which one it is."""
    if id(document) not in _texts:
        _texts[id(document)] = document, json.dumps(document, sort_keys=True)
    return _texts[id(document)][1]


def identity(request):
    """All that decides a request, as a key of dictionaries."""
    return (
        request["principal"], request["action"], request["resource"], request["account"],
        tuple((name, str(value)) for name, value in request["context"].items()),
        tuple(map(_text, request["identity"])), tuple(map(_text, request["boundary"])),
        _text(request["policy"]) if request["policy"] else None,
    )  # fmt: skip


def decide(requests):
    """The decisions of requests, in their order: {"result", "why", "ignored"}. What was decided once is known."""
    keys = list(map(identity, requests))
    asked = {key: request for key, request in zip(keys, requests) if key not in _decided}
    if asked:
        documents, numbers = [], {}

        def number(document):
            text = _text(document)
            if text not in numbers:
                numbers[text] = len(documents)
                documents.append(document)
            return numbers[text]

        lines = []
        for request in asked.values():
            line = {key: value for key, value in request.items() if key != "policy"}
            line["identity"] = list(map(number, request["identity"]))
            line["boundary"] = list(map(number, request["boundary"]))
            if request["policy"]:
                line["resourcePolicy"] = number(request["policy"])
            lines.append(line)
        _decided.update(zip(asked, _ask_simulator({"policies": documents, "requests": lines})))
    return [_decided[key] for key in keys]


@functools.cache
def global_condition_keys():
    """The condition keys of all services, in lower case."""
    return frozenset(key.lower() for key in _ask_simulator({"list": "global condition keys"}))


# Changes that must turn a decision


def foreign(account, environment):
    """Changes of ARNs to those of another account and of another environment, as far as they name them."""
    other = "stage" if environment == "prod" else "prod"
    yield "another account's", lambda text: text.replace(account, STRANGER)
    yield "another environment's", lambda text: re.sub(rf"(salebell[-/]){environment}\b", rf"\1{other}", text)


def without(documents, index, number, action):
    """Policies without one action of one statement, or without the statement where it was the only one."""
    document = documents[index]
    statements = policies.as_list(document["Statement"])
    left = [other for other in policies.as_list(statements[number]["Action"]) if other != action]
    rest = [*statements[:number], *([{**statements[number], "Action": left}] if left else []), *statements[number + 1 :]]
    return [*documents[:index], *([{**document, "Statement": rest}] if rest else []), *documents[index + 1 :]]
