"""Resolves a template as CloudFormation would for one environment, so that tests can look at values in place of functions.

    service = resolve("service", "prod")
    service["Resources"]["LiveGroup"]["Properties"]["MinSize"]      # "4"
    service["Outputs"]["InstanceRoleArn"]["Value"]                  # "arn:aws:iam::333344445555:role/salebell-prod-…"

Parameters come from their defaults, cloudformation/parameters/<environment>.json and the argument, the last one wins. What
only AWS knows is a readable stand-in that is always the same: `salebell-prod-data-Cluster` for the id of a resource,
`arn:aws:…` of the right form where the type is in ARNS. A resource whose condition is false is not there, and what
refers to it all the same is an error, as it is on AWS.
"""

import base64
import functools
import ipaddress
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "stacks"))

import templates  # noqa: E402

REGION = "eu-central-1"
ENVIRONMENTS = ("dev", "stage", "prod")
ACCOUNTS = {"dev": "111122223333", "stage": "222233334444", "prod": "333344445555", "tools": "444455556666"}
NO_VALUE = object()

# The ARN of a resource: service and what follows the account. REGIONLESS and GLOBAL leave fields of it empty.
ARNS = {
    "AWS::AutoScaling::AutoScalingGroup": ("autoscaling", "autoScalingGroup:00000000:autoScalingGroupName/{name}"),
    "AWS::CertificateManager::Certificate": ("acm", "certificate/{name}"),
    "AWS::CloudTrail::Trail": ("cloudtrail", "trail/{name}"),
    "AWS::CloudWatch::Alarm": ("cloudwatch", "alarm:{name}"),
    "AWS::CloudWatch::CompositeAlarm": ("cloudwatch", "alarm:{name}"),
    "AWS::Cognito::UserPool": ("cognito-idp", "userpool/{name}"),
    "AWS::EFS::FileSystem": ("elasticfilesystem", "file-system/{name}"),
    "AWS::ElasticLoadBalancingV2::Listener": ("elasticloadbalancing", "listener/app/{name}/0a/0b"),
    "AWS::ElasticLoadBalancingV2::ListenerRule": ("elasticloadbalancing", "listener-rule/app/{name}/0a/0b/0c"),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": ("elasticloadbalancing", "loadbalancer/app/{name}/0a"),
    "AWS::ElasticLoadBalancingV2::TargetGroup": ("elasticloadbalancing", "targetgroup/{name}/0a"),
    "AWS::Events::Rule": ("events", "rule/{name}"),
    "AWS::IAM::InstanceProfile": ("iam", "instance-profile/{name}"),
    "AWS::IAM::ManagedPolicy": ("iam", "policy/{name}"),
    "AWS::IAM::OIDCProvider": ("iam", "oidc-provider/{name}"),
    "AWS::IAM::Role": ("iam", "role/{name}"),
    "AWS::KMS::Key": ("kms", "key/{name}"),
    "AWS::KinesisFirehose::DeliveryStream": ("firehose", "deliverystream/{name}"),
    "AWS::Logs::LogGroup": ("logs", "log-group:{name}:*"),
    "AWS::RDS::DBCluster": ("rds", "cluster:{name}"),
    "AWS::RDS::DBInstance": ("rds", "db:{name}"),
    "AWS::S3::Bucket": ("s3", "{name}"),
    "AWS::SNS::Topic": ("sns", "{name}"),
    "AWS::SQS::Queue": ("sqs", "{name}"),
    "AWS::SSM::Parameter": ("ssm", "parameter{name}"),
    "AWS::SecretsManager::Secret": ("secretsmanager", "secret:{name}-AbCdEf"),
    "AWS::WAFv2::WebACL": ("wafv2", "regional/webacl/{name}/0a"),
}
GLOBAL = {"s3"}  # neither region nor account
REGIONLESS = {"iam"}
# `Ref` gives the ARN.
REFS_ARE_ARNS = {
    "AWS::CertificateManager::Certificate",
    "AWS::ElasticLoadBalancingV2::Listener",
    "AWS::ElasticLoadBalancingV2::ListenerRule",
    "AWS::ElasticLoadBalancingV2::LoadBalancer",
    "AWS::ElasticLoadBalancingV2::TargetGroup",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::OIDCProvider",
    "AWS::SNS::Topic",
    "AWS::SecretsManager::Secret",
}
# What a service calls the role that it has in an account.
SERVICE_ROLES = {"autoscaling.amazonaws.com": "AWSServiceRoleForAutoScaling"}
# Attributes whose form others look at.
ATTRIBUTES = {
    ("AWS::RDS::DBCluster", "Endpoint.Address"): "{name}.cluster-abc.{region}.rds.amazonaws.com",
    ("AWS::RDS::DBCluster", "ReadEndpoint.Address"): "{name}.cluster-ro-abc.{region}.rds.amazonaws.com",
    ("AWS::RDS::DBCluster", "Endpoint.Port"): "5432",
    ("AWS::RDS::DBCluster", "DBClusterResourceId"): "cluster-ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    ("AWS::RDS::DBCluster", "MasterUserSecret.SecretArn"): "arn:aws:secretsmanager:{region}:{account}:secret:rds!cluster-1a2b3c-AbCdEf",
    ("AWS::Cognito::UserPool", "ProviderURL"): "https://cognito-idp.{region}.amazonaws.com/{region}_AbCdEfGhI",
    ("AWS::Cognito::UserPool", "ProviderName"): "cognito-idp.{region}.amazonaws.com/{region}_AbCdEfGhI",
    ("AWS::Cognito::UserPool", "UserPoolId"): "{region}_AbCdEfGhI",
    ("AWS::ElasticLoadBalancingV2::LoadBalancer", "LoadBalancerFullName"): "app/{name}/0a",
    ("AWS::ElasticLoadBalancingV2::TargetGroup", "TargetGroupFullName"): "targetgroup/{name}/0a",
    ("AWS::SQS::Queue", "QueueUrl"): "https://sqs.{region}.amazonaws.com/{account}/{name}",
    ("AWS::SQS::Queue", "QueueName"): "{name}",
    ("AWS::SNS::Topic", "TopicName"): "{name}",
}
REFS = {
    "AWS::SQS::Queue": ATTRIBUTES["AWS::SQS::Queue", "QueueUrl"],
    "AWS::Cognito::UserPool": ATTRIBUTES["AWS::Cognito::UserPool", "UserPoolId"],
}


class Unresolved(ValueError):
    """Something refers to what is not there."""


@functools.cache
def _real(stack):
    path = next((path for path in templates.paths() if templates.name(path) == stack), None)
    return templates.load(path) if path else None


def parameters_of(stack, environment, root=templates.FOLDER):
    """What the environment's parameter file says for a stack, as text."""
    file = templates.values(environment, root)
    return {**file.get("all", {}), **file.get(stack, {})}


def resolve(template, environment, parameters=None, outputs=None, stack=None):
    """The template as it is in an environment: its Parameters, Conditions, Resources and Outputs as values, and of each
    resource what CloudFormation would know by Names, Refs and Arns.

    `template` is the name of a stack, or a template (then `stack` is its name). `parameters` stand before those of the
    file. `outputs` are those of other stacks, `{"network": {"VpcId": "vpc-1"}}`; what is not in it is taken from the
    templates in cloudformation/, resolved for the same environment, or is `salebell-dev-network.VpcId`.
    """
    if isinstance(template, str):
        stack = template
        template = _real(stack)
        if template is None:
            raise Unresolved(f"there is no template of the stack {stack}")
    return _Resolver(template, environment, stack or "stack", parameters or {}, outputs or {}).run()


@functools.cache
def _resolved(stack, environment):
    return resolve(stack, environment)


def resolve_all(environment, stacks=None, parameters=None):
    """All stacks of an environment by name, each with the outputs of those before it. `stacks` are templates by name, in
    the order of deployment; `parameters` are by stack."""
    outputs, resolved = {}, {}
    for stack, template in (stacks or templates.stacks()).items():
        one = resolve(template, environment, (parameters or {}).get(stack), outputs, stack)
        outputs[stack] = {name: output["Value"] for name, output in one["Outputs"].items()}
        resolved[stack] = one
    return resolved


class _Resolver:
    def __init__(self, template, environment, stack, parameters, outputs):
        self.template, self.environment, self.stack, self.outputs = template, environment, stack, outputs
        # The account of the pipelines is that of all environments.
        owner = "tools" if stack in templates.TOOLS else environment
        self.account = ACCOUNTS[owner]
        self.stack_name = f"salebell-{owner}-{stack}"
        self.parameters = {}
        declared = template.get("Parameters") or {}
        given = parameters_of(stack, owner)
        given = {"Environment": owner, **{k: v for k, v in given.items() if k in declared}, **parameters}
        for name, parameter in declared.items():
            self.parameters[name] = self._parameter(parameter, given.get(name, parameter.get("Default", f"<{name}>")))
        self.pseudo = {
            "AWS::Partition": "aws",
            "AWS::Region": REGION,
            "AWS::AccountId": self.account,
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::StackName": self.stack_name,
            "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{self.account}:stack/{self.stack_name}/0a",
            "AWS::NotificationARNs": [],
            "AWS::NoValue": NO_VALUE,
        }
        self.known = {}

    @staticmethod
    def _parameter(parameter, value):
        if isinstance(value, bool):
            value = str(value).lower()
        kind = parameter.get("Type", "String")
        if kind == "CommaDelimitedList" or kind.startswith("List<"):
            return value if isinstance(value, list) else [part.strip() for part in str(value).split(",") if part.strip()]
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    def run(self):
        resources = {
            name: {key: self.value(part) for key, part in resource.items() if key != "Condition"}
            for name, resource in self.template["Resources"].items()
            if self.exists(resource)
        }
        outputs = {
            name: {key: self.value(part) for key, part in output.items() if key != "Condition"}
            for name, output in (self.template.get("Outputs") or {}).items()
            if self.exists(output)
        }
        made = {name: self.template["Resources"][name] for name in resources}
        return {
            "Stack": self.stack,
            "Environment": self.environment,
            "Account": self.account,
            "Parameters": self.parameters,
            "Refused": self.refused(),
            "Conditions": {name: self.condition(name) for name in self.template.get("Conditions") or {}},
            "Names": {name: self.physical(name, resource) for name, resource in made.items()},
            "Refs": {name: self.ref(name) for name in made},
            "Arns": {name: self.arn(name, resource) for name, resource in made.items() if resource["Type"] in ARNS},
            "Resources": resources,
            "Outputs": outputs,
        }

    def refused(self):
        """The descriptions of the assertions in Rules that do not hold."""
        return [
            f"{self.stack}: {assertion.get('AssertDescription', name)}"
            for name, rule in (self.template.get("Rules") or {}).items()
            if "RuleCondition" not in rule or self.truth(rule["RuleCondition"])
            for assertion in rule["Assertions"]
            if not self.truth(assertion["Assert"])
        ]

    def exists(self, thing):
        return "Condition" not in thing or self.condition(thing["Condition"])

    # Conditions

    def condition(self, name):
        if name not in self.known:
            conditions = self.template.get("Conditions") or {}
            if name not in conditions:
                raise Unresolved(f"{self.stack}: there is no condition {name}")
            self.known[name] = self.truth(conditions[name])
        return self.known[name]

    def truth(self, expression):
        (function, argument), = expression.items()
        if function == "Condition":
            return self.condition(argument)
        if function == "Fn::Equals":
            left, right = map(self.value, argument)
            return _text(left) == _text(right)
        if function == "Fn::Not":
            return not self.truth(argument[0])
        if function == "Fn::And":
            return all([self.truth(part) for part in argument])
        if function == "Fn::Or":
            return any([self.truth(part) for part in argument])
        if function == "Fn::Contains":
            values, value = map(self.value, argument)
            return _text(value) in map(_text, values)
        if function == "Fn::EachMemberIn":
            values, known = map(self.value, argument)
            return set(map(_text, values)) <= set(map(_text, known))
        raise Unresolved(f"{self.stack}: {function} is no condition")

    # Values

    def value(self, node):
        if isinstance(node, list):
            return [value for value in map(self.value, node) if value is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (function, argument), = node.items()
            if function == "Ref":
                return self.ref(argument)
            if function.startswith("Fn::"):
                method = getattr(self, "fn_" + function[4:].lower(), None)
                if method is None:
                    raise Unresolved(f"{self.stack}: {function} is not known here")
                return method(argument)
        values = {key: self.value(part) for key, part in node.items()}
        return {key: value for key, value in values.items() if value is not NO_VALUE}

    def ref(self, name):
        if name in self.parameters:
            return self.parameters[name]
        if name in self.pseudo:
            return self.pseudo[name]
        resource = self.resource(name)
        kind = resource["Type"]
        if kind in REFS_ARE_ARNS:
            return self.arn(name, resource)
        return self.fill(REFS.get(kind, "{name}"), name, resource)

    def resource(self, name):
        resource = self.template["Resources"].get(name)
        if resource is None:
            raise Unresolved(f"{self.stack}: there is no {name}")
        if not self.exists(resource):
            raise Unresolved(f"{self.stack} in {self.environment}: {name} is not made, but referred to")
        return resource

    def physical(self, name, resource):
        """The name that the template gives the resource, or one like those that CloudFormation makes."""
        properties = resource.get("Properties") or {}
        kind = resource["Type"].rsplit("::", 1)[1]
        for key in (f"{kind}Name", "Name", f"{kind}Identifier"):
            if isinstance(properties.get(key), (str, dict)):
                given = self.value(properties[key])
                if isinstance(given, str):
                    return given
        if kind == "ServiceLinkedRole":
            return SERVICE_ROLES[properties["AWSServiceName"]] + "_" + self.value(properties["CustomSuffix"])
        return f"{self.stack_name}-{name}"

    def fill(self, form, name, resource):
        return form.format(name=self.physical(name, resource), region=REGION, account=self.account)

    def arn(self, name, resource):
        service, rest = ARNS[resource["Type"]]
        region = "" if service in GLOBAL | REGIONLESS else REGION
        account = "" if service in GLOBAL else self.account
        return f"arn:aws:{service}:{region}:{account}:" + self.fill(rest, name, resource)

    def fn_getatt(self, argument):
        name, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
        resource = self.resource(name)
        kind = resource["Type"]
        if (kind, attribute) in ATTRIBUTES:
            return self.fill(ATTRIBUTES[kind, attribute], name, resource)
        if kind in ARNS and (attribute in ("Arn", "TopicArn") or attribute.endswith(f"{kind.rsplit('::', 1)[1]}Arn")):
            return self.arn(name, resource)
        properties = resource.get("Properties") or {}
        if attribute in properties:
            return self.value(properties[attribute])
        return f"{self.physical(name, resource)}.{attribute}"

    def fn_getstackoutput(self, argument):
        stack_name, output = self.value(argument["StackName"]), self.value(argument["OutputName"])
        match = re.fullmatch(r"salebell-(dev|stage|prod|tools)-([a-z0-9-]+)", stack_name)
        if not match:
            raise Unresolved(f"{self.stack}: {stack_name} is no stack of ours")
        environment, stack = match.groups()
        if stack in self.outputs:
            outputs = self.outputs[stack]
        elif environment in ENVIRONMENTS and stack != self.stack and _real(stack):
            outputs = {name: value["Value"] for name, value in _resolved(stack, environment)["Outputs"].items()}
        else:
            return f"{stack_name}.{output}"
        if output not in outputs:
            raise Unresolved(f"{self.stack} in {self.environment}: {stack_name} has no output {output}")
        return outputs[output]

    def fn_if(self, argument):
        name, then, otherwise = argument
        return self.value(then if self.condition(name) else otherwise)

    def fn_sub(self, argument):
        text, own = argument if isinstance(argument, list) else (argument, {})
        own = {key: self.value(value) for key, value in own.items()}

        def one(match):
            name = match[1].strip()
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in own:
                return _text(own[name])
            if "." in name:
                return _text(self.fn_getatt(name))
            return _text(self.ref(name))

        return re.sub(r"\$\{([^}]*)\}", one, text)

    def fn_findinmap(self, argument):
        table, first, second = map(self.value, argument[:3])
        try:
            return self.value(self.template["Mappings"][table][first][second])
        except KeyError:
            if len(argument) > 3 and "DefaultValue" in argument[3]:
                return self.value(argument[3]["DefaultValue"])
            raise Unresolved(f"{self.stack}: {table} has no {first}, {second}") from None

    def fn_join(self, argument):
        separator, parts = argument
        return separator.join(_text(part) for part in self.value(parts))

    def fn_split(self, argument):
        separator, text = argument
        return _text(self.value(text)).split(separator)

    def fn_select(self, argument):
        index, parts = int(self.value(argument[0])), self.value(argument[1])
        if index < len(parts):
            return parts[index]
        # A list that only AWS knows is one stand-in.
        if len(parts) == 1:
            return f"{parts[0]}[{index}]"
        raise Unresolved(f"{self.stack}: there is no part {index} of {parts}")

    def fn_cidr(self, argument):
        block, count, bits = (self.value(part) for part in (*argument, 8)[:3])
        network = ipaddress.ip_network(block)
        subnets = network.subnets(new_prefix=network.max_prefixlen - int(bits))
        return [str(next(subnets)) for _ in range(int(count))]

    def fn_getazs(self, argument):
        return [f"{self.value(argument) or REGION}{zone}" for zone in "abc"]

    def fn_base64(self, argument):
        return base64.b64encode(_text(self.value(argument)).encode()).decode()


def _text(value):
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def of_type(resolved, *kinds):
    """Pairs of logical id and resource of one or more types."""
    return [(name, resource) for name, resource in resolved["Resources"].items() if resource["Type"] in kinds]
