"""The operator's commands on small templates: what they refuse, and how they go on after they were stopped."""

import datetime
import json
import re
import signal
import subprocess
from unittest import mock

import pytest

from emulator import COMMANDS, ROOT, Folder, emulator, until  # noqa: F401
import status

BUS = """
Description: A topic and a setting.
Parameters:
  Environment: { Type: String, Default: dev }
  Name: { Type: String, Default: first }
  Colour: { Type: String, Default: green }
Resources:
  Topic: { Type: AWS::SNS::Topic, Properties: { DisplayName: !Ref Colour } }
  Setting:
    Type: AWS::SSM::Parameter
    Properties: { Type: String, Name: !Sub '/salebell/${Environment}/bus/${Name}', Value: !GetAtt Topic.TopicName }
"""
SERVICE = """
Description: What a rollout changes.
Parameters:
  ImageId: { Type: String }
  CanaryWeight: { Type: String, Default: 0 }
  SettingsHash: { Type: String, Default: '' }
  MinSize: { Type: String, Default: 2 }
Resources:
  Fleet: { Type: AWS::SSM::Parameter, Properties: { Type: String, Value: !Sub '${ImageId} ${CanaryWeight} ${SettingsHash} ${MinSize}' } }
Outputs:
  Fleet: { Value: !GetAtt Fleet.Value }
"""
# It is in CREATE_IN_PROGRESS until somebody signals.
SLOW = """
Description: What takes its time.
Parameters:
  Round: { Type: String, Default: first }
Resources:
  Handle: { Type: AWS::CloudFormation::WaitConditionHandle }
  Wait: { Type: AWS::CloudFormation::WaitCondition, DependsOn: Handle, Properties: { Handle: !Ref Handle, Timeout: 60 } }
  After: { Type: AWS::SNS::Topic, DependsOn: Wait, Properties: { DisplayName: !Ref Round } }
"""
VPC = "Resources: { Vpc: { Type: AWS::EC2::VPC, Properties: { CidrBlock: 10.0.0.0/16 } } }"
TRUST = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}]}
# A mount target of a file system that is not there.
BROKEN = "Resources: { Target: { Type: AWS::EFS::MountTarget, Properties: { FileSystemId: fs-0, SubnetId: s, SecurityGroups: [g] } } }"


@pytest.fixture
def folder(tmp_path, emulator, request):  # noqa: F811
    accounts = emulator.__dict__.setdefault("accounts", [])
    accounts.append(request.node.name)
    return Folder(tmp_path, emulator, f"{len(accounts):012}")


def test_a_deploy_shows_its_changes_asks_and_names_the_next_command(folder):
    folder.template("40-bus.yaml", BUS)
    text = folder.run("deploy", answers="y\n")
    assert f"account {folder.credentials['AWS_ACCESS_KEY_ID']}, eu-central-1" in text.split("==> salebell-dev-bus")[0]
    assert "+ Topic AWS::SNS::Topic" in text and text.index("+ Topic") < text.index("[y/N]") < text.index("CREATE_IN_PROGRESS")
    assert "$ aws cloudformation create-change-set --stack-name salebell-dev-bus" in text
    assert "$ aws cloudformation execute-change-set" in text
    assert text.rstrip().endswith("next: make status ENV=dev")
    assert folder.status("bus") == "CREATE_COMPLETE"


def test_each_change_set_names_capability_tags_and_no_rollback_trigger(folder):
    folder.template("40-bus.yaml", BUS)
    first, second = folder.run("deploy", "--yes"), folder.run("deploy", "--yes", "Colour=red")
    for text in (first, second):
        assert "--rollback-configuration '{\"RollbackTriggers\": [], \"MonitoringTimeInMinutes\": 0}'" in text
        assert "--capabilities '[\"CAPABILITY_NAMED_IAM\"]'" in text
    assert "--on-stack-failure DELETE" in first and "--on-stack-failure" not in second
    tags = {tag["Key"]: tag["Value"] for tag in folder.stack("bus")["Tags"]}
    assert set(tags) == {"Project", "Environment", "Component", "Version", "CostCentre", "ManagedBy"}
    assert (tags["Component"], tags["Environment"]) == ("bus", "dev")


def test_the_execution_role_is_passed_once_bootstrap_stands_and_never_for_bootstrap(folder):
    role = "arn:aws:iam::111122223333:role/salebell-dev-execution"
    folder.template("00-bootstrap.yaml", BUS + f"Outputs: {{ ExecutionRoleArn: {{ Value: '{role}' }} }}\n")
    folder.template("40-bus.yaml", BUS)
    folder.values("dev", bus={"Name": "second"})
    text = folder.run("deploy", "--yes")
    bootstrap, bus = text.split("==> salebell-dev-bus")
    assert "--role-arn" not in bootstrap and f"--role-arn {role}" in bus
    assert "--role-arn" not in folder.run("deploy", "--yes", "--stack=bootstrap", "Colour=red")


def test_after_bootstrap_the_command_for_the_defaults_of_the_account_is_printed(folder):
    folder.template("00-bootstrap.yaml", BUS + "Outputs: { AccountDefaultsCommand: { Value: aws ec2 enable-ebs-encryption } }\n")
    assert "    aws ec2" not in folder.run("deploy", answers="n\n", code=1)
    assert "\naws ec2 enable-ebs-encryption\n" in folder.run("deploy", "--yes")


def test_what_a_stack_needs_is_said_before_its_first_deploy(folder):
    folder.template("40-bus.yaml", "Metadata: { Needs: 'A queue needs a belt. If it has one: ' }\n" + BUS)
    assert "A queue needs a belt. If it has one: change salebell-dev-bus" in folder.run("deploy", answers="y\n")
    assert "belt" not in folder.run("deploy", "Colour=red", answers="y\n")


def test_a_no_and_nobody_there_change_nothing(folder):
    folder.template("40-bus.yaml", BUS)
    for answers in ("n\n", "", "yes please\n"):
        assert "not agreed; nothing more is changed" in folder.run("deploy", answers=answers, code=1)
        assert folder.status("bus") in (None, "DELETE_COMPLETE")
    folder.run("deploy", "--yes")
    folder.run("deploy", "Colour=red", answers="n\n", code=1)
    assert folder.client("cloudformation").list_change_sets(StackName="salebell-dev-bus")["Summaries"][1:] == []


def test_a_second_run_says_that_there_is_nothing_to_change(folder):
    folder.template("40-bus.yaml", BUS)
    folder.run("deploy", "--yes")
    text = folder.run("deploy")
    assert "nothing to change" in text and "[y/N]" not in text


def test_replacements_are_red_and_asked_for_by_another_word(folder):
    folder.template("40-bus.yaml", BUS)
    folder.run("deploy", "--yes")
    text = folder.run("deploy", "Name=other", answers="y\ny\n", code=1, FORCE_COLOR="1")
    assert re.search(r"\033\[31m    ! Setting AWS::SSM::Parameter is REPLACED \(Name", text)
    assert "REPLACE Setting, with all that is in them? [replace/N]" in text
    text = folder.run("deploy", "--yes", "Name=other", code=1)
    assert "Setting would be replaced. REPLACE=1 says that this is meant" in text
    assert folder.stack("bus")["StackStatus"] == "CREATE_COMPLETE"
    folder.run("deploy", "Name=other", answers="y\nreplace\n")
    folder.run("deploy", "--yes", "--replace", "Name=third")
    assert folder.client("ssm").get_parameter(Name="/salebell/dev/bus/third")


def test_what_is_removed_is_red(folder):
    folder.template("40-bus.yaml", BUS)
    folder.run("deploy", "--yes")
    folder.template("40-bus.yaml", BUS.split("  Setting:")[0])
    assert "\033[31m    - Setting AWS::SSM::Parameter is REMOVED" in folder.run("deploy", answers="y\n", FORCE_COLOR="1")


@pytest.mark.parametrize(
    "words, told",
    [
        (["--environment=live"], "must be dev, stage or prod"),
        (["--environment=dev", "--stack=netwrk"], "dev has no stack 'netwrk': STACK= may be service"),
        (["--environment=dev", "ImageID=ami-1"], "no such parameter: ImageID"),
        (["--environment=dev"], "fill in cloudformation/parameters/dev.json, or add PARAMETERS=\"Name=… Name=…\":\n    service: ImageId has no value"),
        (["--environment=stage"], "service: ImageId is still the placeholder 'ami-0REPLACE'"),
        (["--environment=prod"], "prod.json, service: no such parameter: MinSiz"),
        (["--environment=tools"], "tools.json, servic: no such parameter: ImageId"),
        (["--environment=dev", "ImageId=www.example.com"], "is still the placeholder 'www.example.com'"),
    ],
)
def test_what_is_missing_or_misspelt_is_refused_with_what_to_do(folder, emulator, words, told):  # noqa: F811
    folder.template("60-service.yaml", SERVICE)
    folder.values("stage", service={"ImageId": "ami-0REPLACE"})
    folder.values("prod", service={"MinSiz": 4})
    folder.values("tools", servic={"ImageId": 4})
    text = emulator.call("deploy", *folder.words(words), "--yes", code=1, **folder.credentials)
    assert told in text and "Traceback" not in text
    assert folder.client("cloudformation").list_stacks()["StackSummaries"] == []


def test_without_a_region_or_credentials_it_says_what_to_set(folder):
    folder.template("40-bus.yaml", BUS)
    assert "AWS_REGION=" in folder.run("deploy", code=1, AWS_REGION="", AWS_DEFAULT_REGION="")
    folder.credentials.update(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert "error: Unable to locate credentials" in folder.run("deploy", code=1)


def test_only_parameters_of_the_template_are_given_those_of_all_stacks_included(folder):
    folder.template("40-bus.yaml", BUS)
    folder.template("60-service.yaml", SERVICE)
    folder.values("dev", all={"Colour": "blue", "MinSize": 3}, service={"ImageId": "ami-1"})
    folder.run("deploy", "--yes")
    values = {one["ParameterKey"]: one["ParameterValue"] for one in folder.stack("bus")["Parameters"]}
    assert values == {"Environment": "dev", "Name": "first", "Colour": "blue"}
    assert folder.stack("service")["Outputs"][0]["OutputValue"].startswith("ami-1 0 ")


def test_a_deploy_of_templates_never_undoes_a_rollout(folder):
    folder.template("60-service.yaml", SERVICE)
    folder.values("dev", service={"ImageId": "ami-1", "MinSize": 2})
    folder.run("deploy", "--yes")
    folder.run("deploy", "--yes", "ImageId=ami-2", "CanaryWeight=10")
    folder.values("dev", service={"ImageId": "ami-1", "MinSize": 5})
    folder.run("deploy", "--yes")
    image, weight, _, size = folder.stack("service")["Outputs"][0]["OutputValue"].split()
    assert (image, weight, size) == ("ami-2", "10", "5")


def test_the_hash_changes_with_each_setting_but_those_that_change_live(folder):
    sentence = re.search(r"## Settings that change without a restart\n\nTokens of IAM are renewed\.(.*?) are read again", settings_page(), re.S)[1]
    live = [name.replace(".", "/") for name in re.findall(r"`([a-z_.]+)`", sentence)]
    assert len(live) == 6
    folder.template("60-service.yaml", SERVICE)
    folder.values("dev", service={"ImageId": "ami-1"})
    ssm, seen = folder.client("ssm"), []

    def hash_now():
        folder.run("deploy", "--yes")
        return folder.stack("service")["Outputs"][0]["OutputValue"].split()[2]

    before = hash_now()
    for name in live:
        ssm.put_parameter(Name=f"/salebell/dev/{name}", Value="x", Type="String")
    ssm.put_parameter(Name="/salebell/stage/log/level", Value="x", Type="String")
    assert hash_now() == before
    for name, value in [("log/level", "info"), ("log/level", "debug"), ("database/iam", "true")]:
        ssm.put_parameter(Name=f"/salebell/dev/{name}", Value=value, Type="String", Overwrite=True)
        seen.append(hash_now())
    # More than a page of them.
    for number in range(12):
        ssm.put_parameter(Name=f"/salebell/dev/many/{number}", Value="x", Type="String")
    seen.append(hash_now())
    ssm.put_parameter(Name="/salebell/dev/many/11", Value="y", Type="String", Overwrite=True)
    assert len({before, *seen, hash_now()}) == 6


def settings_page():
    return (ROOT / "docs" / "guides" / "settings-on-aws.md").read_text()


def test_protection_and_stack_policy_are_set_and_set_again(folder):
    policy = {"Statement": [{"Effect": "Deny", "Action": "Update:Replace", "Principal": "*", "Resource": "*"}]}
    (folder.path / "stack-policies").mkdir()
    (folder.path / "stack-policies" / "bus.json").write_text(json.dumps(policy))
    folder.template("00-bootstrap.yaml", BUS)
    folder.template("40-bus.yaml", BUS)
    folder.values("dev", bus={"Name": "second"})
    folder.values("prod", bus={"Name": "second"})
    folder.run("deploy", "--yes")
    folder.run("deploy", "--yes", environment="prod")
    cloudformation = folder.client("cloudformation")

    def protected(name):
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0].get("EnableTerminationProtection", False)

    names = [f"salebell-{environment}-{name}" for environment in ("dev", "prod") for name in ("bootstrap", "bus")]
    assert [protected(name) for name in names] == [True, False, True, True]
    assert json.loads(cloudformation.get_stack_policy(StackName="salebell-dev-bus")["StackPolicyBody"]) == policy
    # As after a run that was killed between the create and this.
    cloudformation.update_termination_protection(StackName="salebell-prod-bus", EnableTerminationProtection=False)
    cloudformation.set_stack_policy(StackName="salebell-prod-bus", StackPolicyBody='{"Statement": []}')
    assert "nothing to change" in folder.run("deploy", "--yes", environment="prod")
    assert protected("salebell-prod-bus")
    assert json.loads(cloudformation.get_stack_policy(StackName="salebell-prod-bus")["StackPolicyBody"]) == policy


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_in_the_middle_is_gone_on_with(folder, how):
    folder.template("30-slow.yaml", SLOW)
    folder.template("40-bus.yaml", BUS)
    first = folder.start("deploy", "--yes")
    until(folder.handle, "the stack to be in progress")
    first.send_signal(how)
    said, _ = first.communicate(timeout=20)
    assert first.returncode == (130 if how == signal.SIGINT else -9)
    assert ("goes on from there" in said) == (how == signal.SIGINT) and "Traceback" not in said
    assert folder.status("slow") == "CREATE_IN_PROGRESS"
    second = folder.start("deploy", "--yes")
    assert "CREATE_IN_PROGRESS, begun by an earlier run" in read_until(second, "Wait AWS::CloudFormation::WaitCondition")
    folder.signal()
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and "nothing to change" in said.split("==> salebell-dev-bus")[0], said
    assert re.search(r"CREATE_COMPLETE +After AWS::SNS::Topic\n.* CREATE_COMPLETE +salebell-dev-slow ", said, re.S), said
    assert (folder.status("slow"), folder.status("bus")) == ("CREATE_COMPLETE", "CREATE_COMPLETE")


def test_a_create_that_fails_while_nobody_looks_is_told_and_made_anew(folder):
    folder.template("30-slow.yaml", SLOW)
    first = folder.start("deploy", "--yes")
    until(folder.handle, "the stack to be in progress")
    first.kill()
    first.communicate()
    second = folder.start("deploy", "--yes")
    read_until(second, "waiting for it")
    folder.signal("FAILURE")
    assert "that has ended in DELETE_COMPLETE, because of\n" in read_until(second, "Wait (AWS::CloudFormation::WaitCondition): ")
    until(lambda: folder.status("slow") == "CREATE_IN_PROGRESS" and folder.handle(), "the second create")
    folder.signal()
    second.communicate(timeout=60)
    assert second.returncode == 0


def read_until(process, words):
    said = ""
    while words not in said:
        line = process.stdout.readline()
        assert line, f"it ended without {words!r}:\n{said}"
        said += line
    return said


def test_a_change_set_that_was_never_executed_is_made_anew(folder):
    folder.template("40-bus.yaml", BUS)
    first = folder.start("deploy")
    read_until(first, "$ aws cloudformation execute-change-set")
    first.kill()
    first.communicate()
    assert folder.status("bus") == "REVIEW_IN_PROGRESS"
    assert "stopped before it executed its change set" in folder.run("deploy", "--yes")
    assert folder.status("bus") == "CREATE_COMPLETE"


def test_who_stops_at_the_question_leaves_nothing_behind(folder):
    folder.template("40-bus.yaml", BUS)
    for stands in (False, True):
        asked = folder.start("deploy", *(["Colour=red"] if stands else []))
        read_until(asked, "[y/N]")
        asked.send_signal(signal.SIGINT)
        said, _ = asked.communicate(timeout=20)
        assert asked.returncode == 130 and "Traceback" not in said
        cloudformation = folder.client("cloudformation")
        if stands:
            waiting = cloudformation.list_change_sets(StackName="salebell-dev-bus")["Summaries"]
            assert [one for one in waiting if one["ExecutionStatus"] == "AVAILABLE"] == []
        else:
            assert folder.status("bus") in (None, "DELETE_COMPLETE")
            folder.run("deploy", "--yes")


def test_drift_is_changed_back_only_where_a_stack_stands_and_only_when_asked_for(folder):
    folder.template("40-bus.yaml", BUS)
    assert "--deployment-mode" not in folder.run("deploy", "--yes", "--revert")
    assert "--deployment-mode" not in folder.run("deploy", "--yes", "Colour=red")
    text = folder.run("deploy", "--yes", "--revert", "Colour=blue")
    assert "--deployment-mode REVERT_DRIFT" in text and "with what was changed by hand changed back" in text


def test_the_rest_of_a_create_that_has_failed_is_deleted_first(folder):
    folder.template("40-bus.yaml", BUS)
    cloudformation = folder.client("cloudformation")
    cloudformation.create_stack(StackName="salebell-dev-bus", TemplateBody=BROKEN)
    until(lambda: folder.status("bus") == "ROLLBACK_COMPLETE", "the create to fail")
    text = folder.run("deploy", "--yes")
    assert "is in ROLLBACK_COMPLETE, the rest of a create that has failed: deletes it first" in text
    assert folder.status("bus") == "CREATE_COMPLETE"


def test_a_first_create_that_fails_leaves_nothing_and_says_why(folder):
    folder.template("30-data.yaml", BROKEN)
    text = folder.run("deploy", "--yes", code=1, FORCE_COLOR="1")
    assert re.search(r"error: salebell-dev-data is in DELETE_COMPLETE, because of\n    Target \(AWS::EFS::MountTarget\): .*fs-0", text)
    assert re.search(r"\033\[31m +[\d:]+ CREATE_FAILED +Target", text)
    assert folder.status("data") == "DELETE_COMPLETE"
    folder.template("30-data.yaml", BUS)
    folder.run("deploy", "--yes")


def test_an_update_that_fails_is_rolled_back_and_stops_the_deploy(folder):
    folder.template("30-data.yaml", BUS)
    folder.template("40-bus.yaml", BUS)
    folder.values("dev", bus={"Name": "second"})
    folder.run("deploy", "--yes")
    folder.template("30-data.yaml", BUS + BROKEN.removeprefix("Resources: { ").removesuffix(" }").replace("Target:", "  Target:", 1))
    text = folder.run("deploy", "--yes", code=1)
    assert "salebell-dev-data is in UPDATE_ROLLBACK_COMPLETE, because of\n    Target (AWS::EFS::MountTarget)" in text
    assert text.rstrip().endswith("Mend that, and run the same command again: it goes on from here")
    assert "==> salebell-dev-bus" not in text
    assert "! data UPDATE_ROLLBACK_COMPLETE" in folder.run("status", code=1)


def test_a_template_that_cloudformation_refuses_is_told_without_a_traceback(folder):
    folder.template("30-data.yaml", BUS.replace("AWS::SNS::Topic,", "AWS::SNS::Topik,"))
    assert "Unrecognized resource types: [AWS::SNS::Topik]" in folder.run("deploy", "--yes", code=1)


def test_what_only_a_person_can_end_is_refused_with_the_command(folder):
    folder.template("20-network.yaml", VPC)
    folder.run("deploy", "--yes")
    ec2, cloudformation = folder.client("ec2"), folder.client("cloudformation")
    vpc = cloudformation.describe_stack_resources(StackName="salebell-dev-network")["StackResources"][0]["PhysicalResourceId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    text = folder.run("destroy", "--yes", code=1)
    assert "salebell-dev-network is in DELETE_FAILED, because of\n    Vpc (AWS::EC2::VPC)" in text
    text = folder.run("deploy", "--yes", code=1)
    assert "is in DELETE_FAILED, because of\n    Vpc (AWS::EC2::VPC): " in text
    assert "Mend that, then: $ aws cloudformation delete-stack --stack-name salebell-dev-network" in text
    ec2.delete_subnet(SubnetId=subnet)
    assert "all is gone" in folder.run("destroy", "--yes")


def test_bootstrap_is_left_to_an_administrator(folder):
    folder.template("00-bootstrap.yaml", BUS)
    folder.template("40-bus.yaml", BUS)
    folder.values("dev", bus={"Name": "second"})
    folder.run("deploy", "--yes")
    role = folder.client("iam").create_role(RoleName="salebell-dev-deploy", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
    keys = folder.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="pipeline")["Credentials"]
    folder.credentials.update(
        AWS_ACCESS_KEY_ID=keys["AccessKeyId"], AWS_SECRET_ACCESS_KEY=keys["SecretAccessKey"], AWS_SESSION_TOKEN=keys["SessionToken"]
    )
    text = folder.run("deploy", "--yes", "Colour=red")
    assert "bootstrap is an administrator's: left as it is" in text and "==> salebell-dev-bootstrap" not in text


def test_pipelines_are_deployed_in_the_tools_account_alone(folder):
    folder.template("40-bus.yaml", BUS)
    folder.template("90-pipelines.yaml", BUS)
    folder.run("deploy", "--yes")
    assert (folder.status("bus"), folder.status("pipelines")) == ("CREATE_COMPLETE", None)
    folder.values("tools", pipelines={"Name": "second"})
    assert "==> salebell-tools-pipelines" in folder.run("deploy", "--yes", environment="tools")


def test_destroy_refuses_prod_asks_for_the_name_and_goes_backwards(folder):
    folder.template("00-bootstrap.yaml", BUS.replace("  Setting:\n", "  Setting:\n    DeletionPolicy: Retain\n"))
    folder.template("40-bus.yaml", BUS)
    folder.values("dev", bus={"Name": "second"})
    folder.run("deploy", "--yes")
    assert "prod is not destroyed by a command" in folder.run("destroy", "--yes", environment="prod", code=1)
    assert "not agreed" in folder.run("destroy", answers="y\n", code=1)
    assert (folder.status("bootstrap"), folder.status("bus")) == ("CREATE_COMPLETE", "CREATE_COMPLETE")
    text = folder.run("destroy", answers="dev\n")
    assert text.index("==> salebell-dev-bus") < text.index("==> salebell-dev-bootstrap")
    assert "AWS::SSM::Parameter /salebell/dev/bus/first stays" in text.split("==> all is gone")[1]
    assert "takes its protection off" in text
    assert (folder.status("bootstrap"), folder.status("bus")) == ("DELETE_COMPLETE", "DELETE_COMPLETE")
    assert folder.client("ssm").get_parameter(Name="/salebell/dev/bus/first")
    assert "all is gone" in folder.run("destroy", "--yes")


def test_a_destroy_that_was_killed_is_gone_on_with(folder):
    folder.template("30-slow.yaml", SLOW)
    folder.template("40-bus.yaml", BUS)
    first = folder.start("deploy", "--yes")
    until(folder.handle, "the stack to be in progress")
    first.kill()
    first.communicate()
    destroy = folder.start("destroy", "--yes")
    assert "is in CREATE_IN_PROGRESS: waiting for it" in read_until(destroy, "waiting for it")
    folder.signal()
    assert "all is gone" in destroy.communicate(timeout=60)[0]
    assert folder.status("slow") == "DELETE_COMPLETE"


GROUP = """
Description: A group, an alarm and the topics of alerts.
Parameters: { CanaryWeight: { Type: String, Default: 0 } }
Resources:
  Template: { Type: AWS::EC2::LaunchTemplate, Properties: { LaunchTemplateData: { ImageId: ami-1, InstanceType: t4g.small } } }
  Group:
    Type: AWS::AutoScaling::AutoScalingGroup
    Properties:
      MinSize: 1
      MaxSize: 4
      AvailabilityZones: [eu-central-1a]
      LaunchTemplate: { LaunchTemplateId: !Ref Template, Version: !GetAtt Template.LatestVersionNumber }
  HighAlarm:
    Type: AWS::CloudWatch::Alarm
    Properties: { Namespace: N, MetricName: M, Statistic: Sum, Period: 60, EvaluationPeriods: 1, Threshold: !Ref CanaryWeight,
                  ComparisonOperator: GreaterThanThreshold, TreatMissingData: notBreaching, AlarmDescription: 'Runbook: r.md' }
Outputs: { LiveGroup: { Value: !Ref Group }, Alarm: { Value: !Ref HighAlarm } }
"""
TOPICS = """
Resources: { Urgent: { Type: AWS::SNS::Topic }, Ordinary: { Type: AWS::SNS::Topic } }
Outputs: { UrgentTopicArn: { Value: !Ref Urgent }, OrdinaryTopicArn: { Value: !Ref Ordinary } }
"""


def test_status_says_what_needs_a_person(folder):
    folder.template("10-foundation.yaml", TOPICS)
    folder.template("40-bus.yaml", BUS)
    folder.template("60-service.yaml", GROUP)
    assert "! bus is not deployed (make deploy ENV=dev STACK=bus)" in folder.run("status", code=1)
    folder.run("deploy", "--yes")
    text = folder.run("status", code=1)
    assert "! UrgentTopicArn REACHES NOBODY" in text and "! OrdinaryTopicArn REACHES NOBODY" in text
    assert "! LiveGroup has 0 instances (wanted: 1 to 4)" in text

    # Made well: subscriptions that are confirmed, an instance of an image with a version.
    sns, ec2, autoscaling = folder.client("sns"), folder.client("ec2"), folder.client("autoscaling")
    for output in folder.stack("foundation")["Outputs"]:
        queue = f"arn:aws:sqs:eu-central-1:{folder.credentials['AWS_ACCESS_KEY_ID']}:{output['OutputKey']}"
        sns.subscribe(TopicArn=output["OutputValue"], Protocol="sqs", Endpoint=queue)
    outputs = {one["OutputKey"]: one["OutputValue"] for one in folder.stack("service")["Outputs"]}
    group = outputs["LiveGroup"]
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=group, DesiredCapacity=1)
    text = folder.run("status")
    assert "LiveGroup has 1 instances (wanted: 1 to 4)" in text and "InService Healthy" in text
    assert text.rstrip().endswith("nothing needs a person")

    # Each thing that can be wrong, by itself.
    folder.client("cloudwatch").set_alarm_state(AlarmName=outputs["Alarm"], StateValue="ALARM", StateReason="too high")
    text = folder.run("status", code=1)
    assert f"! {outputs['Alarm']}: too high\n      Runbook: r.md" in text and "\n1 needs a person" in text
    folder.client("cloudwatch").set_alarm_state(AlarmName=outputs["Alarm"], StateValue="OK", StateReason="fine")
    folder.client("ssm").put_parameter(Name="/salebell/dev/bus/first", Value="by hand", Type="String", Overwrite=True)
    assert "! bus: Setting MODIFIED /Value" in folder.run("status", code=1)
    folder.client("ssm").put_parameter(Name="/salebell/dev/bus/first", Value=topic(folder), Type="String", Overwrite=True)
    folder.run("deploy", "--yes", "--stack=service", "CanaryWeight=10")
    text = folder.run("status", code=1)
    back = "make rollback ENV=dev makes it 0"
    assert f"! CanaryWeight IS 10: a rollout is under way, has stopped half-way, or was taken back ({back})" in text


@pytest.mark.parametrize(
    "instances, weight, minutes, shouts",
    [("1", "0", 1, []), ("1", "0", 11, ["CanaryInstances"]), ("1", "10", 1, ["CanaryInstances", "CanaryWeight"]), ("0", "0", 11, [])],
)
def test_status_does_not_take_a_canary_that_comes_up_for_one_that_was_left(instances, weight, minutes, shouts):
    changed = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=minutes)
    values = {"CanaryInstances": instances, "CanaryWeight": weight}
    stack = {"StackStatus": "UPDATE_COMPLETE", "CreationTime": changed - datetime.timedelta(days=1), "LastUpdatedTime": changed,
             "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]}  # fmt: skip
    lines = list(status.groups(mock.Mock(environment="dev"), {"service": stack}))
    assert [line.split()[1] for line in lines if line.startswith("!")] == shouts
    assert any("CanaryInstances IS 1: a rollout is under way" in line for line in lines) == (instances == "1")


def test_status_shouts_when_a_process_is_suspended():
    """MiniStack knows no SuspendProcesses, so what AWS answers is written down here."""
    group = {"Instances": [], "MinSize": 0, "MaxSize": 2, "SuspendedProcesses": [{"ProcessName": "Launch"}]}
    client = mock.Mock()
    client.describe_auto_scaling_groups.return_value = {"AutoScalingGroups": [group]}
    client.describe_instance_refreshes.return_value = {"InstanceRefreshes": []}
    service = {"StackStatus": "CREATE_COMPLETE", "Outputs": [{"OutputKey": "LiveGroup", "OutputValue": "g"}]}
    lines = list(status.groups(mock.Mock(client=lambda name: client), {"service": service}))
    assert "! LAUNCH IS SUSPENDED in LiveGroup: aws autoscaling resume-processes --auto-scaling-group-name g" in lines


def test_status_shouts_when_nobody_has_confirmed():
    """MiniStack lists what waits for a confirmation as if it were confirmed; on AWS the word stands in place of the ARN."""
    foundation = {"Outputs": [{"OutputKey": "UrgentTopicArn", "OutputValue": "arn:aws:sns:eu-central-1:111122223333:urgent"}]}
    waiting = {"SubscriptionArn": "PendingConfirmation", "Protocol": "email", "Endpoint": "ops@salebell.test"}
    confirmed = {"SubscriptionArn": "arn:aws:sns:eu-central-1:111122223333:urgent:1", "Protocol": "https", "Endpoint": "https://pager"}

    def lines(*subscriptions):
        return list(status.alerts(mock.Mock(pages=lambda *words, **more: iter(subscriptions)), {"foundation": foundation}))

    assert lines(waiting) == ["! UrgentTopicArn REACHES NOBODY; the message to ops@salebell.test must be confirmed"]
    assert lines(waiting, confirmed) == ["UrgentTopicArn reaches https"]
    assert lines() == ["! UrgentTopicArn REACHES NOBODY"]


def test_status_names_the_version_that_an_instance_runs(folder):
    ec2 = folder.client("ec2")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    ec2.create_tags(Resources=[image], Tags=[{"Key": "Version", "Value": "0123abc"}])
    instance = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    account = mock.Mock(client=folder.client)
    assert status.version(account, instance) == f"{image} version 0123abc"
    assert status.version(account, "i-0123456789abcdef0") == "(gone, or its image is)"


def topic(folder):
    return folder.client("sns").list_topics()["Topics"][-1]["TopicArn"].rsplit(":", 1)[1]


def test_the_commands_are_short_enough_to_be_read():
    lengths = {path.name: len(path.read_text().splitlines()) for path in COMMANDS.glob("*.py")}
    # What reads the templates belongs to the tests as well.
    reader = lengths.pop("templates.py")
    # 600 were wanted; the rest is the mutes that make status looks for, canaries that it leaves alone, and what make change-sets
    # shares with make deploy.
    assert max(*lengths.values(), reader) <= 200 and sum(lengths.values()) <= 630, lengths


def test_tests_and_commands_have_the_same_packages():
    lines = [line for line in (COMMANDS / "requirements.txt").read_text().splitlines() if "==" in line]
    assert lines and set(lines) <= set((ROOT / "tests/stacks/requirements.txt").read_text().splitlines())
