"""Starts MiniStack with a stand-in for each type of resource that it does not know and refuses a template for. A stand-in
has an id and attributes, and does nothing: what such a resource is told is asserted on the template alone (docs/reference/assumptions.md).

A type that MiniStack has learnt must leave the list, and so must one that no template has: the tests fail then.
"""

import importlib.util
import json
import pathlib
import sys
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts" / "stacks"))

import operations  # noqa: E402
import templates  # noqa: E402

# By type: the attributes that templates ask for, and why nothing is lost that a test of the deployment could have seen.
STUBS = {
    "AWS::ARCZonalShift::ZonalAutoshiftConfiguration": ((), "by parameter; a service that shifts traffic on AWS alone"),
    "AWS::AccessAnalyzer::Analyzer": ((), "looks at an account from outside"),
    "AWS::Budgets::Budget": ((), "MiniStack has its API, not its type; nothing is billed there"),
    "AWS::CloudTrail::Trail": ((), "MiniStack has its API, not its type; calls of an emulator are not recorded"),
    "AWS::CloudWatch::CompositeAlarm": (("Arn",), "the gates; their rules are asserted on the template"),
    "AWS::CodeConnections::Connection": ((), "a person completes it in the console"),
    "AWS::CodePipeline::Pipeline": ((), "MiniStack has no pipelines; stages, triggers and artifacts are asserted on the template"),
    "AWS::CodeStarNotifications::NotificationRule": ((), "of pipelines, which do not run"),
    "AWS::Cognito::ManagedLoginBranding": ((), "how a page looks"),
    "AWS::Config::ConfigRule": ((), "MiniStack has its API, not its type; it evaluates nothing"),
    "AWS::Config::ConfigurationRecorder": ((), "the same"),
    "AWS::Config::DeliveryChannel": ((), "the same"),
    "AWS::EC2::EIP": (("AllocationId",), "of the NAT; no packet flows in an emulator"),
    "AWS::EC2::FlowLog": ((), "no packet flows"),
    "AWS::EC2::NatGateway": ((), "no packet flows; that the private route goes there is read back"),
    "AWS::EC2::NetworkAcl": ((), "no packet flows; entries are asserted on the template"),
    "AWS::EC2::NetworkAclEntry": ((), "the same"),
    "AWS::EC2::SecurityGroupEgress": ((), "no packet flows; rules are asserted on the template"),
    "AWS::EC2::SnapshotBlockPublicAccess": ((), "a default of the account"),
    "AWS::EC2::SubnetNetworkAclAssociation": ((), "no packet flows"),
    "AWS::EC2::VPCEncryptionControl": ((), "by parameter; no packet flows"),
    "AWS::GlobalAccelerator::Accelerator": (("DnsName",), "by parameter; a network of AWS's"),
    "AWS::GlobalAccelerator::EndpointGroup": ((), "the same"),
    "AWS::GlobalAccelerator::Listener": ((), "the same"),
    "AWS::IAM::OIDCProvider": ((), "by parameter; nobody logs in"),
    "AWS::IAM::ServiceLinkedRole": ((), "roles that AWS's services make for themselves"),
    "AWS::SSM::Document": ((), "MiniStack has no sessions; the document is asserted on the template"),
    "AWS::Shield::Protection": ((), "by parameter; a service of AWS's network"),
    "AWS::WAFv2::LoggingConfiguration": ((), "no request reaches the firewall"),
    "AWS::WAFv2::WebACLAssociation": ((), "the same"),
}
# By type and property: types that MiniStack makes, but not with this property.
PARTS = {
    ("AWS::CloudWatch::Alarm", "Metrics"): "metric math; each metric and its dimensions are asserted on the template",
}


def register(handlers, stubs=None, parts=None):
    """Adds a handler for each stub. Ends with an error where MiniStack has one already."""
    stubs, parts = STUBS if stubs is None else stubs, PARTS if parts is None else parts
    if learnt := sorted(set(stubs) & set(handlers)):
        raise SystemExit(f"MiniStack makes {', '.join(learnt)} by now: take them out of {__file__}")
    for kind, (attributes, _) in stubs.items():
        handlers[kind] = stand_in(kind, attributes)
    for kind, part in parts:
        try:
            handlers[kind]["create"]("Probe", {part: [{}]}, "probe")
        except ValueError as error:
            if part not in str(error):
                raise
        else:
            raise SystemExit(f"MiniStack makes {kind} with {part} by now: take it out of {__file__}")
        handlers[kind] = with_stand_in(handlers[kind], stand_in(kind, ("Arn",)), part)


def stand_in(kind, attributes):
    service = kind.split("::")[1].lower()

    def create(logical_id, properties, stack_name):
        name = f"{stack_name}-{logical_id}"
        arn = f"arn:aws:{service}:eu-central-1:000000000000:{name}"
        return name, {one: arn if one.endswith("Arn") else f"{name}-{one}" for one in attributes}

    def update(physical_id, before, after, stack_name):
        return physical_id, {}

    return {"create": create, "update": update, "delete": lambda physical_id, properties: None}


def with_stand_in(real, stub, part):
    """The real handler, and the stub for what has the part."""

    def create(logical_id, properties, stack_name):
        return (stub if part in properties else real)["create"](logical_id, properties, stack_name)

    def update(physical_id, before, after, stack_name, logical_id=None):
        if part in before or part in after:
            return physical_id, {}
        return real["update"](physical_id, before, after, stack_name, logical_id)

    def delete(physical_id, properties):
        (stub if part in properties else real)["delete"](physical_id, properties)

    return {**real, "create": create, "update": update, "update_with_logical_id": True, "delete": delete}


def with_secret(real, create_secret):
    """The cluster of the real handler with its managed secret, which MiniStack's RDS makes and its CloudFormation does not.
    `create_secret(name, value)` gives the secret's ARN."""
    attribute, made = "MasterUserSecret.SecretArn", {}

    def complete(answer, properties):
        physical_id, attributes = answer
        if attribute in attributes:
            raise ValueError(f"MiniStack gives {attribute} by now: take it out of {__file__}")
        if properties.get("ManageMasterUserPassword") in (True, "true") and physical_id not in made:
            value = {"username": properties["MasterUsername"], "password": uuid.uuid4().hex}
            made[physical_id] = create_secret(f"rds!cluster-{uuid.uuid4()}", json.dumps(value))
        return physical_id, {**attributes, **{attribute: made[one] for one in [physical_id] if one in made}}

    def create(logical_id, properties, stack_name):
        return complete(real["create"](logical_id, properties, stack_name), properties)

    def update(physical_id, before, after, stack_name, logical_id=None):
        return complete(real["update"](physical_id, before, after, stack_name, logical_id), after)

    return {**real, "create": create, "update": update, "update_with_logical_id": True}


def replacements(kinds):
    """By type: the properties whose change replaces a resource, and those whose change may, as its schema says."""
    folder = pathlib.Path(importlib.util.find_spec("cfnlint").origin).parent / "data" / "schemas"
    names = json.loads((folder / "providers" / "eu-central-1.json").read_text())
    for kind in kinds:
        schema = json.loads((folder / "resources" / f"{names[kind]}.json").read_text())
        always, perhaps = schema.get("createOnlyProperties", []), schema.get("conditionalCreateOnlyProperties", [])
        yield kind, tuple(path.split("/")[2] for path in always), tuple(path.split("/")[2] for path in perhaps)


def main():
    from ministack.app import main as serve
    from ministack.services import secretsmanager
    from ministack.services.cloudformation import provisioners

    handlers = provisioners._RESOURCE_HANDLERS
    register(handlers)
    handlers["AWS::RDS::DBCluster"] = with_secret(handlers["AWS::RDS::DBCluster"], secretsmanager.create_secret_in_process)
    # Of these MiniStack does not know it, and says of each change that it may be a replacement.
    types = {one["Type"] for template in templates.stacks().values() for one in template["Resources"].values()}
    for kind, always, perhaps in replacements(types - set(provisioners._REPLACING_PROPERTIES)):
        provisioners._REPLACING_PROPERTIES[kind] = always
        provisioners._CONDITIONALLY_REPLACING_PROPERTIES.setdefault(kind, perhaps)
    operations.register()
    sys.argv[1:] = []
    serve()


if __name__ == "__main__":
    main()
