"""Each role may do what it has to, and nothing else: its calls (cloudformation/calls) decided by its policies, its
boundary and the policies of keys, buckets, queues, topics and roles, as AWS would decide them (P8)."""

import dataclasses
import functools
import re

import access
import calls
import pytest
from access import ANYBODY, STRANGER, decide, delegating, foreign, without
from stacks import Stacks, summary
from templates import TOOLS

MUTANTS = {"iam.yaml"}


def problems_of(stacks, check):
    """What a check finds, each with the first environment that it is in."""
    found = {}
    for table in calls.tables(stacks.folder).values():
        for label, world in calls.worlds(stacks):
            if table.role in world.roles:
                for text in once(check, world, table):
                    found.setdefault(f"{table.name}: {text.replace(world.account, '${Account}')}", label)
    return [f"{text} ({label})" for text, label in found.items()]


_found = {}


def once(check, world, table):
    """What a check finds: the same where policies and calls are the same, as in most mutants."""
    key = check, what_decides(world, table)
    if key not in _found:
        _found[key] = list(check(world, world.roles[table.role], table))
    return _found[key]


@functools.cache
def what_decides(world, table):
    """All that what a check finds depends on."""
    made = table.calls(world) + table.calls(world, "deny") + implied(world, table)
    requests = [request(world, world.roles[table.role], call) for call in made]
    return world.environment, table.name, tuple(map(access.identity, requests))


def request(world, role, call, **changes):
    """The request that a call is."""
    return world.request(role, call.action, call.resource, dict(call.context), **changes)


def test_each_role_has_a_boundary_and_a_table(stacks):
    problems, tables = set(), calls.tables(stacks.folder)
    for _, world in calls.worlds(stacks):
        for name, role in world.roles.items():
            if role.boundary is None:
                problems.add(f"{name} has no boundary that is a policy of the templates")
            if role.policies and name not in tables:
                problems.add(f"{name} has no table in cloudformation/calls")
    roles = {name for _, world in calls.worlds(stacks) for name in world.roles}
    problems |= {f"calls/{table.name}.yaml: there is no role {role}" for role, table in tables.items() if role not in roles}
    assert not problems, summary(problems)


TABLES = sorted(calls.tables(Stacks.folder).values(), key=lambda table: table.name)


@pytest.mark.parametrize("table", TABLES, ids=[table.name for table in TABLES])
def test_each_line_of_a_table_is_a_call_somewhere(stacks, table):
    """A name that is misspelt would take its call away everywhere."""
    made = {call.line for _, world in calls.worlds(stacks) for key in ("calls", "deny") for call in table.calls(world, key)}
    lines = [(key, number) for key in ("calls", "deny") for number in range(len(table.lines(key)))]
    assert not [table.lines(key)[number] for key, number in lines if (key, number) not in made]


def denied(world, role, table, only=None):
    """Calls that the role has to make and may not; `only` those of an action."""
    made = [call for call in table.calls(world) + implied(world, table) if only in (None, call.action)]
    for call, answer in zip(made, decide([request(world, role, call) for call in made])):
        if answer["result"] != "Allowed":
            yield f"{call} is {answer['result']} {answer['why'] or ''}"
        elif unknown := set(answer["ignored"]) & {name for name, _ in call.context}:
            if not call.action.startswith("kms:"):
                yield f"{call}: {', '.join(sorted(unknown))} does not come with it"


@functools.cache
def implied(world, table):
    """What else a call on something encrypted needs: the key, by way of the service."""
    found = []
    for call in table.calls(world):
        for action, context in KEYS_OF.get(call.action, {}).items():
            if key := world.key_of(call.resource):
                service = call.resource.split(":")[2]
                named = (context, access.encrypted(call.resource))
                way = ("kms:ViaService", f"{service}.{access.REGION}.amazonaws.com")
                found.append(calls.Call(f"kms:{action}", key, (way, named)))
    return found


# The encryption context that the service gives, by action of the key. Several parts of an object are put together.
KEYS_OF = {
    "sns:Publish": dict.fromkeys(["Decrypt", "GenerateDataKey"], "kms:EncryptionContext:aws:sns:topicArn"),
    "sqs:SendMessage": dict.fromkeys(["Decrypt", "GenerateDataKey"], "kms:EncryptionContext:aws:sqs:arn"),
    "sqs:ReceiveMessage": dict.fromkeys(["Decrypt"], "kms:EncryptionContext:aws:sqs:arn"),
    "s3:GetObject": dict.fromkeys(["Decrypt"], "kms:EncryptionContext:aws:s3:arn"),
    "s3:PutObject": dict.fromkeys(["Decrypt", "GenerateDataKey"], "kms:EncryptionContext:aws:s3:arn"),
    "secretsmanager:GetSecretValue": dict.fromkeys(["Decrypt"], "kms:EncryptionContext:SecretARN"),
}


def test_each_call_is_allowed(stacks):
    problems = problems_of(stacks, denied)
    assert not problems, summary(problems)


def idle(world, role, table, only=None):
    """Actions of statements that no call needs: without it each call is still allowed, or the table has none. `only` one."""
    needing = {}
    for call in table.calls(world) + implied(world, table):
        needing.setdefault(call.action.lower(), []).append(call)
    asked = []
    for index, policy in enumerate(role.policies):
        for number, statement in enumerate(policy.statements):
            if statement["Effect"] == "Allow":
                for action in access.policies.as_list(statement["Action"]):
                    if only not in (None, action):
                        continue
                    less = without(role.documents, index, number, action)
                    requests = [request(world, role, call, documents=less) for call in needing.get(action.lower(), [])]
                    asked.append((statement.get("Sid", number), action, requests))
    answers = iter(decide([one for _, _, requests in asked for one in requests]))
    for sid, action, requests in asked:
        results = [next(answers)["result"] for _ in requests]
        if "ImplicitlyDenied" not in results:
            yield f"{action} of {sid} is needed by no call" if not results else f"{action} is allowed without {sid} too"


def test_each_action_of_a_role_is_needed(stacks):
    problems = problems_of(stacks, idle)
    assert not problems, summary(problems)


def strangers(world, role, table):
    """Calls that are allowed on the same thing of another environment or account. What that account itself would allow
    is everything, so it is the role that must not."""
    asked = []
    for call in table.calls(world):
        for whose, change in foreign(role.account, world.environment):
            resource = change(call.resource)
            if resource != call.resource and not (call.shared and "environment" in whose):
                # What comes with it is of there, too.
                context = {key: change(value) for key, value in call.context}
                elsewhere = resource.split(":")[4] == STRANGER
                policy = ANYBODY if elsewhere else delegating(role.account) if call.action.startswith("kms:") else {}
                asked.append((f"{call.action} on {whose} {resource}", world.request(
                    role, call.action, resource, context, policy=policy)))  # fmt: skip
    for (text, _), answer in zip(asked, decide([one for _, one in asked])):
        if "Denied" not in answer["result"]:
            yield f"{text} is {answer['result']} {answer['why']}"


def test_no_call_reaches_another_environment_or_account(stacks):
    problems = problems_of(stacks, strangers)
    assert not problems, summary(problems)


def optional(role, key):
    """Whether a statement says that a condition key may be missing, as the same action is called without it."""
    conditions = [statement.get("Condition", {}) for policy in role.policies for statement in policy.statements]
    return any(operator.endswith("IfExists") and key in block for one in conditions for operator, block in one.items())


def unconditional(world, role, table):
    """Calls that are allowed without what their table says comes with them, or with another service's word."""
    asked = []
    for call in table.calls(world):
        for key, value in call.context:
            rest = {name: other for name, other in call.context if name != key}
            other = f"glacier.{access.REGION}.amazonaws.com" if key == "kms:ViaService" else "another"
            ways = [("with another", {**rest, key: other})]
            if not optional(role, key) and key not in access.ALWAYS:
                ways.append(("without", rest))
            asked += [(f"{call} {way} {key}", world.request(role, call.action, call.resource, changed))
                      for way, changed in ways]  # fmt: skip
    for (text, _), answer in zip(asked, decide([one for _, one in asked])):
        if "Denied" not in answer["result"]:
            yield f"{text} is {answer['result']} {answer['why']}"


def test_what_comes_with_a_call_is_asked_for(stacks):
    problems = problems_of(stacks, unconditional)
    assert not problems, summary(problems)


def forbidden(world, role, table):
    """What the table says the role must not do, and it may."""
    made = table.calls(world, "deny")
    for call, answer in zip(made, decide([request(world, role, call) for call in made])):
        if "Denied" not in answer["result"]:
            yield f"{call} is {answer['result']} {answer['why']}"


def test_what_a_table_forbids_is_denied(stacks):
    problems = problems_of(stacks, forbidden)
    assert not problems, summary(problems)


# What makes a thing that has a name of ours in its ARN.
MAKES = {
    "AWS::AutoScaling::AutoScalingGroup": "autoscaling:CreateAutoScalingGroup",
    "AWS::CloudTrail::Trail": "cloudtrail:CreateTrail",
    "AWS::CloudWatch::Alarm": "cloudwatch:PutMetricAlarm",
    "AWS::CloudWatch::CompositeAlarm": "cloudwatch:PutCompositeAlarm",
    "AWS::Events::Rule": "events:PutRule",
    "AWS::KinesisFirehose::DeliveryStream": "firehose:CreateDeliveryStream",
    "AWS::Logs::LogGroup": "logs:CreateLogGroup",
    "AWS::S3::Bucket": "s3:CreateBucket",
    "AWS::SNS::Topic": "sns:CreateTopic",
    "AWS::SQS::Queue": "sqs:CreateQueue",
    "AWS::SSM::Parameter": "ssm:PutParameter",
    "AWS::SecretsManager::Secret": "secretsmanager:CreateSecret",
}


def not_made(world):
    """Things of the templates that CloudFormation may not make under the name that they get."""
    found = [(stack, id, MAKES[world.stacks[stack]["Resources"][id]["Type"]], world.arn(stack, id))
             for stack, id, _ in world.resources(*MAKES) if stack not in ("bootstrap", *TOOLS)]  # fmt: skip
    role = world.roles["bootstrap/ExecutionRole"]
    requests = [world.request(role, action, arn.removesuffix(":*"), {}) for _, _, action, arn in found]
    for (stack, id, action, arn), answer in zip(found, decide(requests)):
        if answer["result"] != "Allowed":
            yield f"{stack}/{id}: {action} on {arn.replace(world.account, '${Account}')} is {answer['result']}"


def test_the_execution_role_may_make_what_the_templates_name(stacks):
    """A table is written by hand, and so is a policy: that they agree does not say that they are right."""
    problems = sorted({text for _, world in calls.worlds(stacks) for text in not_made(world)})
    assert not problems, summary(problems)


def test_each_type_of_the_templates_is_in_the_table_of_the_execution_role(stacks):
    """Its comments say which calls are of which types."""
    path = stacks.folder / "calls" / "execution.yaml"
    said = set(re.findall(r"AWS::\w+::\w+", path.read_text())) if path.exists() else set()
    # The other two are an administrator's.
    made = {
        resource["Type"]
        for stack, template in stacks.templates.items() if stack not in ("bootstrap", *TOOLS)
        for resource in template["Resources"].values()
    }  # fmt: skip
    problems = [f"calls/execution.yaml does not say what {one} needs" for one in sorted(made - said)]
    problems += [f"calls/execution.yaml: no template has a {one}" for one in sorted(said - made)]
    assert not problems, summary(problems)


# That these checks see what they are for: the instance's role, changed in each of the ways that matter.


@pytest.fixture(scope="module")
def instance(stacks):
    """The first environment, with the role of the instances and its table."""
    _, world = calls.worlds(stacks)[0]
    table = next(table for table in calls.tables(stacks.folder).values() if table.name == "instance")
    return world, world.roles[table.role], table


def changes(role, change):
    """The role, and what was changed, for each change of one statement by `change(statement)`, which gives others."""
    for index, policy in enumerate(role.policies):
        for number, statement in enumerate(policy.statements):
            for what, other in change(statement):
                statements = [*policy.statements]
                statements[number : number + 1] = [other] if other["Action"] else []
                document = {**policy.document, "Statement": statements}
                changed = [*role.policies]
                changed[index] = dataclasses.replace(policy, document=document)
                yield statement.get("Sid", number), what, dataclasses.replace(role, policies=changed)


def test_without_any_action_the_instance_lacks_a_call(instance):
    world, role, table = instance

    def less(statement):
        actions = access.policies.as_list(statement["Action"])
        return [(one, {**statement, "Action": [other for other in actions if other != one]}) for one in actions]

    tried = list(changes(role, less))
    assert len(tried) > 20
    assert [(sid, action) for sid, action, changed in tried if not list(denied(world, changed, table, action))] == []


def test_with_any_other_action_the_instance_has_an_idle_one(instance):
    world, role, table = instance

    def more(statement):
        actions = access.policies.as_list(statement["Action"])
        service = actions[0].split(":")[0]
        names = [f"{service}:{name}" for name in access.policies.IAM.actions.get_actions_for_service(service)]
        return [(other, {**statement, "Action": [*actions, other]}) for other in names if other not in actions]

    tried = list(changes(role, more))
    assert len(tried) > 500
    assert [(sid, action) for sid, action, changed in tried if not list(idle(world, changed, table, action))] == []


def test_without_a_word_of_its_boundary_the_instance_is_stopped(instance):
    world, role, table = instance
    nothing = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}
    found = list(denied(world, dataclasses.replace(role, boundary=nothing), table))
    assert found and not any(text.startswith("sqs:") for text in found)


def test_with_a_star_in_place_of_names_the_instance_reaches_strangers(instance):
    world, role, table = instance

    def anything(statement):
        return [("*", {**statement, "Resource": "*"})] if statement["Resource"] != "*" and "Condition" not in statement else []

    tried = list(changes(dataclasses.replace(role, boundary=None), anything))
    assert len(tried) > 5
    assert [sid for sid, _, changed in tried if not list(strangers(world, changed, table))] == []
