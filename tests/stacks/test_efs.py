"""Files on EFS: who reaches them, how, and what instances are told to mount."""

import pytest

from resolve import of_type
from test_settings import written

MOUNT = {"elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite", "elasticfilesystem:ClientRootAccess"}


def complaints(stacks):
    resolved = stacks.resolved("prod", FileStore="efs")
    data, network = resolved["data"], resolved["network"]
    [(_, system)] = of_type(data, "AWS::EFS::FileSystem")
    statements = system["Properties"]["FileSystemPolicy"]["Statement"]
    for one in statements:
        condition = one.get("Condition", {}).get("Bool", {})
        if one["Effect"] == "Allow" and condition != {
            "elasticfilesystem:AccessedViaMountTarget": "true",
            "aws:SecureTransport": "true",
        }:
            yield f"{one['Sid']} lets others in than those at a mount target with TLS"
    refused = [set(one["Action"]) for one in statements
               if one["Effect"] == "Deny" and one["Principal"] == {"AWS": "*"}
               and one.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}]  # fmt: skip
    if MOUNT not in refused:
        yield "mounts without TLS are not refused"

    group, instances = (network["Refs"][one] for one in ("FileSystemSecurityGroup", "InstanceSecurityGroup"))
    for _, target in of_type(data, "AWS::EFS::MountTarget"):
        if target["Properties"]["SecurityGroups"] != [group]:
            yield "a mount target has other security groups"
    rules = network["Resources"]["FileSystemSecurityGroup"]["Properties"]["SecurityGroupIngress"]
    rules = rules + [one["Properties"] for _, one in of_type(network, "AWS::EC2::SecurityGroupIngress")
                     if one["Properties"]["GroupId"] == group]  # fmt: skip
    if [(one["FromPort"], one["ToPort"], one.get("SourceSecurityGroupId")) for one in rules] != [(2049, 2049, instances)]:
        yield "others than instances reach the mount targets, or on another port"

    names = {name.removeprefix("/salebell/prod/"): one["Value"] for name, (one, _) in written(resolved).items()}
    told = f"{data['Refs']['FileSystem']}.efs.eu-central-1.amazonaws.com"
    for name, value in {"files/store": "directory", "files/mounted": "true", "files/efs": told}.items():
        if names.get(name) != value:
            yield f"{name} is {names.get(name)!r}"


def test_files_are_reached_by_instances_alone_and_with_tls(stacks):
    assert not list(complaints(stacks))


def policy(template):
    return template["Resources"]["FileSystem"]["Properties"]["FileSystemPolicy"]["Statement"]


BROKEN = {
    "lets others in": ("data", lambda template: policy(template)[0]["Condition"]["Bool"].pop("aws:SecureTransport")),
    "without TLS are not refused": ("data", lambda template: policy(template).pop()),
    "is not told": ("data", lambda template: template["Resources"].pop("FilesEfs")),
    "others than instances": (
        "network",
        lambda template: template["Resources"]["FileSystemSecurityGroup"]["Properties"]["SecurityGroupIngress"][0].update(
            FromPort=111
        ),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_way_around_it_is_seen(stacks, what):
    stack, change = BROKEN[what]
    found = list(complaints(stacks.changed(stack, change)))
    assert len(found) == 1, found


def test_without_efs_nothing_is_told_of_it(stacks):
    assert not any("/files/efs" in name or "/files/mounted" in name for name in written(stacks.resolved("prod")))
