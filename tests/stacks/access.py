"""Who may do what in an environment: requests decided by all policies of the templates together.

`World(stacks, "dev")` knows the roles with their policies and boundaries, and the policies of keys, buckets, queues,
topics, secrets and roles by ARN. `decide` has simulate.cjs decide requests that `World.request` and `World.ask` made.
"""

import atexit
import copy
import dataclasses
import functools
import json
import os
import re
import subprocess

import policies
from resolve import ACCOUNTS, REGION, ROOT
from stacks import Stacks

# An account that is none of ours.
STRANGER = "999900001111"

# The attribute of a resource that is its ARN, for what policies are about.
ARNS = {
    "AWS::IAM::Role": "Arn",
    "AWS::KMS::Key": "Arn",
    "AWS::SQS::Queue": "Arn",
    "AWS::SNS::Topic": "TopicArn",
    "AWS::S3::Bucket": "Arn",
    "AWS::EFS::FileSystem": "Arn",
}

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
    """The roles and the policies of resources in one environment, with parameters in place of those of its file."""

    def __init__(self, stacks, environment, **parameters):
        self.environment, self.account = environment, ACCOUNTS[environment]
        self.stacks = _with_arns(stacks).resolved(environment, **parameters)
        self.arns = {
            (stack, name[len(_OURS) :]): output["Value"]
            for stack, template in self.stacks.items()
            for name, output in template["Outputs"].items()
            if name.startswith(_OURS)
        }
        self.policies = list(policies.find(self.stacks))
        self.resource_policies = dict(self._resource_policies())
        self.roles = {role.name: role for role in self._roles()}

    def _roles(self):
        boundaries = {}
        for stack, template in self.stacks.items():
            for id, resource in template["Resources"].items():
                if resource["Type"] == "AWS::IAM::ManagedPolicy":
                    properties = resource["Properties"]
                    name = properties.get("ManagedPolicyName", f"salebell-{self.environment}-{stack}-{id}")
                    arn = f"arn:aws:iam::{template['Account']}:policy/{name}"
                    boundaries[arn] = properties["PolicyDocument"]
        for (stack, id), arn in self.arns.items():
            resource = self.stacks[stack]["Resources"][id]
            if resource["Type"] == "AWS::IAM::Role":
                properties = resource["Properties"]
                own = [p for p in self.policies if (p.stack, p.resource, p.kind) == (stack, id, "identity")]
                for managed in properties.get("ManagedPolicyArns", []):
                    if managed in boundaries:
                        own.append(policies.Policy(stack, id, "managed", managed, boundaries[managed]))
                boundary = boundaries.get(properties.get("PermissionsBoundary"))
                yield Role(stack, id, arn, own, boundary, properties["AssumeRolePolicyDocument"], properties)

    def _resource_policies(self):
        """Pairs of the ARN of a resource and its policy."""
        for policy in self.policies:
            properties = self.stacks[policy.stack]["Resources"][policy.resource]["Properties"]
            if policy.kind in ("key", "trust", "file system"):
                yield self.arns[policy.stack, policy.resource], policy.document
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

    def output(self, stack, name):
        """An output of a stack, or nothing where it has none in this environment."""
        found = self.stacks.get(stack, {"Outputs": {}})["Outputs"].get(name)
        return found and found["Value"]

    def request(self, role, action, resource, context, documents=None, policy=None):
        """A role's request. `documents`: policies in place of the role's; `policy`: in place of the resource's."""
        own = {
            "aws:PrincipalArn": role.arn,
            "aws:PrincipalAccount": role.account,
            "aws:PrincipalType": "AssumedRole",
            "aws:PrincipalIsAWSService": "false",
        }
        return {
            **self.ask(role.session, action, resource, {**own, **context}, policy),
            "identity": role.documents if documents is None else documents,
            "boundary": [role.boundary] if role.boundary else [],
        }

    def ask(self, principal, action, resource, context, policy=None):
        """A request of a service, or of somebody of another account."""
        account = resource.split(":")[4] if resource.count(":") >= 5 else ""
        known = {"aws:SecureTransport": "true", "aws:RequestedRegion": REGION, "aws:ViaAWSService": "false"}
        return {
            "principal": principal,
            "action": action,
            "resource": resource,
            "account": account or self.account,
            "context": {**known, **context},
            "identity": [],
            "boundary": [],
            "policy": policy if policy is not None else self.policy_of(resource),
        }


def _queue(url):
    _, _, host, account, name = url.split("/")
    return f"arn:aws:sqs:{host.split('.')[1]}:{account}:{name}"


_OURS = "ArnOf"


@functools.cache
def _with_arns(stacks):
    """The same templates with the ARN of each resource that a policy may be about as an output."""
    augmented = {}
    for stack, template in stacks.templates.items():
        outputs = dict(template.get("Outputs") or {})
        for id, resource in template["Resources"].items():
            if attribute := ARNS.get(resource["Type"]):
                condition = {"Condition": resource["Condition"]} if "Condition" in resource else {}
                outputs[_OURS + id] = {"Value": {"Fn::GetAtt": [id, attribute]}, **condition}
        augmented[stack] = {**template, "Outputs": outputs}
    return Stacks(augmented, stacks.folder)


# The simulator


@functools.cache
def _simulator():
    packages = subprocess.run(
        [ROOT / "scripts/prepare-node.sh", "tests/stacks/package.json"], capture_output=True, text=True, check=True
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


_decided = {}


def decide(requests):
    """The decisions of requests, in their order: {"result", "why", "ignored"}. What was decided once is known."""
    keys = [json.dumps(request, sort_keys=True) for request in requests]
    open_ = {key: request for key, request in zip(keys, requests) if key not in _decided}
    if open_:
        documents, numbers = [], {}

        def number(document):
            text = json.dumps(document, sort_keys=True)
            if text not in numbers:
                numbers[text] = len(documents)
                documents.append(document)
            return numbers[text]

        asked = []
        for request in open_.values():
            one = {key: value for key, value in request.items() if key != "policy"}
            one["identity"] = [number(document) for document in request["identity"]]
            one["boundary"] = [number(document) for document in request["boundary"]]
            if request["policy"] is not None:
                one["resourcePolicy"] = number(request["policy"])
            asked.append(one)
        _decided.update(zip(open_, _ask_simulator({"policies": documents, "requests": asked})))
    return [_decided[key] for key in keys]


@functools.cache
def global_condition_keys():
    """The condition keys of all services, in lower case."""
    return frozenset(key.lower() for key in _ask_simulator({"list": "global condition keys"}))


# Changes that must turn a decision


def foreign(resource, environment):
    """The same resource of another account and of another environment, as far as its ARN names them."""
    fields = resource.split(":", 5)
    if len(fields) == 6 and re.fullmatch(r"\d{12}", fields[4]):
        elsewhere = [*fields]
        elsewhere[4] = STRANGER
        yield "another account's", ":".join(elsewhere).replace(fields[4], STRANGER)
    other = "stage" if environment == "prod" else "prod"
    renamed = re.sub(rf"(salebell[-/]){environment}\b", rf"\1{other}", resource)
    if renamed != resource:
        yield "another environment's", renamed


def without(documents, index, number, action):
    """Policies without one action of one statement, or without the statement where it was the only one."""
    documents = list(documents)
    documents[index] = copy.deepcopy(documents[index])
    statements = policies.as_list(documents[index]["Statement"])
    left = [other for other in policies.as_list(statements[number]["Action"]) if other != action]
    if left:
        statements[number]["Action"] = left
    else:
        del statements[number]
    documents[index]["Statement"] = statements
    if not statements:
        del documents[index]
    return documents
