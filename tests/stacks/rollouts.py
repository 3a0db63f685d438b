"""A stand-in for what MiniStack does not do of a rollout, beneath the commands and beside MiniStack's CloudFormation: alarms and
what a rollback trigger does, targets' health, refreshes, requests, builds, and AWS's clock. It knows nothing of the commands.

Its world is a file, so that a command that is killed and started anew finds it as it was.
"""

import contextlib
import datetime
import io
import json
import os
import signal
import time
from unittest import mock

import boto3
import botocore.client
import botocore.exceptions

import emulator
from emulator import Folder

GOOD, OLD, OLDER, BAD = "ami-0000000000000000a", "ami-00000000000000001", "ami-00000000000000000", "ami-0000000000000bad0"
ALARM = "arn:aws:cloudwatch:eu-central-1:111122223333:alarm:"
# As 60-service.yaml is to the commands: its parameters and outputs. `Fails` is not there: what a trigger does to an update.
SERVICE = """
Parameters:
  ImageId: { Type: String, Default: ami-00000000000000001 }
  CanaryImageId: { Type: String, Default: ami-00000000000000001 }
  CanaryInstances: { Type: String, Default: '0' }
  CanaryWeight: { Type: String, Default: '0' }
  SettingsHash: { Type: String, Default: none }
  CanarySettingsHash: { Type: String, Default: none }
  Gates: { Type: String, Default: 'on' }
  Rollout: { Type: String, Default: refresh }
  InServiceDuringRoll: { Type: String, Default: '1' }
  InstanceType: { Type: String, Default: t4g.small }
  MaxSize: { Type: String, Default: '4' }
  Fails: { Type: String, Default: 'no' }
Conditions: { Fails: !Equals [!Ref Fails, 'yes'] }
Resources:
  Rule: { Type: AWS::SNS::Topic, Properties: { DisplayName: !Ref CanaryWeight } }
  Canary: { Type: AWS::SNS::Topic, Properties: { DisplayName: !Sub '${CanaryImageId} ${CanarySettingsHash} ${CanaryInstances}' } }
  LaunchTemplate: { Type: AWS::EC2::LaunchTemplate, Properties: { LaunchTemplateData: { ImageId: !Ref ImageId, InstanceType: !Ref InstanceType } } }
  Live: { Type: AWS::SNS::Topic, Properties: { DisplayName: !Sub '${SettingsHash} ${Gates} ${InServiceDuringRoll}' } }
  ATrigger: { Type: AWS::EFS::MountTarget, Condition: Fails, DependsOn: [Rule, Canary, LaunchTemplate, Live],
              Properties: { FileSystemId: fs-0, SubnetId: s, SecurityGroups: [g] } }
Outputs:
  LiveGroup: { Value: live }
  CanaryGroup: { Value: canary }
  LaunchTemplateId: { Value: !Ref LaunchTemplate }
  CanaryHttpTargetGroup: { Value: targetgroup/http/1 }
  CanaryGrpcTargetGroup: { Value: targetgroup/grpc/1 }
  ServiceGate: { Value: ServiceGate }
  CanaryGate: { Value: CanaryGate }
"""
EDGE = "Resources: { T: { Type: AWS::SNS::Topic } }\nOutputs: { BalancerFullName: { Value: app/b/1 } }\n"
DATA = "Resources: { T: { Type: AWS::SNS::Topic } }\nOutputs: { MigrationSource: { Value: releases/images } }\n"


# Clients are made once, not once a command.
CLIENTS = {}


def image(name):
    return {"ImageId": name, "State": "available", "Architecture": "arm64", "Name": f"salebell-arm64-{name[4:]}", "Tags": []}


START = {
    "images": {name: image(name) for name in (GOOD, OLD, OLDER, BAD)},
    "alarms": {"ServiceGate": "OK", "CanaryGate": "OK"},
    # Which gate alarms while an update is made that has it as a trigger.
    "fires": [],
    "canary": "healthy",
    "requests": 1000,
    "build": "SUCCEEDED",
    "refresh": [],
    "suspended": [],
    "desired": 2,
    # How often the stack is still seen in progress after it has ended in MiniStack, and what one look takes.
    "busy": 1,
    "seconds": 1,
    # The name of a call, which one of them, whether before or after it, and the signal, if another than SIGKILL: the command gets it
    # there.
    "kill": None,
    # Whether AWS answers no call after that.
    "hangs": False,
    # The name of a call, its code, from which one of them on, and for how many.
    "errors": None,
    # The parameters that another operator gives the stack, and before which change set.
    "other": None,
    "clock": 0,
    "left": 0,
    "cancelled": False,
    "updated": 0,
    "calls": [],
    "builds": {},
}


class World:
    """The stand-in's world, and the commands in it."""

    def __init__(self, path, folder):
        self.path, self.folder, self.operations, self.output = path, folder, [], path.with_name("said.txt")
        self.cloudformation = folder.client("cloudformation")
        self.write(START)

    def read(self):
        return json.loads(self.path.read_text())

    def write(self, content):
        other = self.path.with_suffix(".new")
        other.write_text(json.dumps(content))
        other.rename(self.path)

    def set(self, **values):
        self.write({**self.read(), **values})

    @contextlib.contextmanager
    def changed(self):
        content = self.read()
        yield content
        self.write(content)

    def parameters(self):
        (stack,) = self.cloudformation.describe_stacks(StackName="salebell-dev-service")["Stacks"]
        return {one["ParameterKey"]: one["ParameterValue"] for one in stack["Parameters"]}

    def change(self, **values):
        """As another operator does it."""
        given = [{"ParameterKey": key, "ParameterValue": values[key]} if key in values else {"ParameterKey": key, "UsePreviousValue": True}
                 for key in self.parameters()]  # fmt: skip
        self.cloudformation.update_stack(StackName="salebell-dev-service", UsePreviousTemplate=True, Parameters=given)
        emulator.until(lambda: self.folder.status("service") == "UPDATE_COMPLETE", "another operator's update")

    def updates(self):
        """What the commands have asked CloudFormation for: the parameters that they gave, triggers and minutes."""
        return [call[1] for call in self.read()["calls"] if call[0] == "update"]

    def run(self, program, *words, **more):
        with installed(self):
            return self.folder.run(program, *words, **more)

    def rollout(self, *words, image=GOOD, **more):
        return self.run("rollout", f"--image={image}", "--yes", *words, **more)

    def fork(self, program, *words):
        """The same in a process of its own, which may be killed: how it ended, and what it said."""
        return self.waited(self.begin(program, *words))

    def begin(self, program, *words):
        """Starts that process."""
        if not self.operations:
            # Clients that are made here need not be made in there.
            before = self.read()
            self.set(kill=None)
            self.rollout("--canary=0", image="ami-0", code=1)
            self.write(before)
        self.output.write_text("")
        pid = os.fork()
        if pid == 0:
            code, said = 99, ""
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    code, said = self.run(program, *words, code=None)
            except BaseException as error:
                said = repr(error)
            finally:
                self.output.write_text(said)
                os._exit(code)
        return pid

    def ended(self, pid):
        """How it ended, after a signal from outside: its connections were ours, and it may have ended in the middle of an answer."""
        CLIENTS.clear()
        self.cloudformation = self.folder.client("cloudformation")
        return self.waited(pid)

    def waited(self, pid):
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), self.output.read_text()

    # What stands in for services; the stack is MiniStack's.
    def autoscaling_DescribeAutoScalingGroups(self, content, client, parameters):
        stands = self.parameters()["CanaryInstances"] == "1" and content["canary"] != "absent"
        template = {"LaunchTemplateId": "lt-1", "Version": "1"}
        instance = {"InstanceId": "i-1", "LifecycleState": "InService", "HealthStatus": "Healthy", "LaunchTemplate": template}
        suspended = [{"ProcessName": one} for one in content["suspended"]]
        live, canary = ({"AutoScalingGroupName": name, "LaunchTemplate": template} for name in parameters["AutoScalingGroupNames"])
        live |= {"Instances": [], "DesiredCapacity": content["desired"], "SuspendedProcesses": suspended}
        return {"AutoScalingGroups": [live, {**canary, "Instances": [instance] if stands else []}]}

    def autoscaling_DescribeInstanceRefreshes(self, content, client, parameters):
        return {"InstanceRefreshes": [{**one, "StartTime": moment(one["StartTime"])} for one in content["refresh"][:1]]}

    def autoscaling_CancelInstanceRefresh(self, content, client, parameters):
        content["calls"].append(["cancel refresh", parameters])
        content["refresh"][0]["Status"], content["left"] = "Cancelled", 0
        return {"InstanceRefreshId": "1"}

    def autoscaling_RollbackInstanceRefresh(self, content, client, parameters):
        if content.get("refuses"):
            raise error(client, "RollbackInstanceRefresh", "IrreversibleInstanceRefresh", "no desired configuration")
        content["calls"].append(["rollback refresh", parameters])
        content["refresh"][0]["Status"] = "RollbackInProgress"
        return {"InstanceRefreshId": "2"}

    def cloudwatch_DescribeAlarms(self, content, client, parameters):
        # Their names end as in the template.
        asked = {name: gate for name in parameters["AlarmNames"] for gate in content["alarms"] if name.endswith(gate)}
        found = [(name, content["alarms"][gate]) for name, gate in asked.items()]
        return {"CompositeAlarms": [{"AlarmName": n, "AlarmArn": ALARM + n, "StateValue": s, "AlarmRule": "r"} for n, s in found]}

    def cloudwatch_GetMetricData(self, content, client, parameters):
        half = content["requests"] / 2
        return {"MetricDataResults": [{"Id": one["Id"], "Values": [half]} for one in parameters["MetricDataQueries"]]}

    def elbv2_DescribeTargetHealth(self, content, client, parameters):
        bad = content["canary"].removeprefix("unhealthy ") in parameters["TargetGroupArn"]
        state = "unhealthy" if bad else "healthy"
        return {"TargetHealthDescriptions": [{"Target": {"Id": "i-1"}, "TargetHealth": {"State": state}}]}

    def ec2_DescribeImages(self, content, client, parameters):
        found = [content["images"].get(one) for one in parameters["ImageIds"]]
        if not all(found):
            raise error(client, "DescribeImages", "InvalidAMIID.NotFound", "The image id does not exist")
        return {"Images": found}

    def codebuild_StartBuild(self, content, client, parameters):
        content["calls"].append(["build", parameters])
        number = f"migrate:{len(content['builds'])}"
        content["builds"][number] = 2
        return {"build": {"id": number, "buildComplete": False}}

    def codebuild_BatchGetBuilds(self, content, client, parameters):
        (number,) = parameters["ids"]
        content["builds"][number] -= 1
        done = content["builds"][number] <= 0
        status = {"buildComplete": done, "buildStatus": content["build"] if done else "IN_PROGRESS"}
        said = {"phases": [{"contexts": [{"message": "make migrate has failed"}]}]} if content["build"] == "FAILED" else {}
        return {"builds": [{"id": number, "currentPhase": "COMPLETED" if done else "BUILD", **status, **said}]}

    # What is added to CloudFormation.
    def cloudformation_CreateChangeSet(self, content, client, parameters, call):
        if content["other"] and content["other"][0] == parameters["ChangeSetName"].rsplit("-", 3)[0]:
            changed, content["other"] = content["other"][1], None
            self.change(**changed)
        triggers = parameters.get("RollbackConfiguration", {}).get("RollbackTriggers", [])
        fires = any(one["Arn"].endswith(gate) for one in triggers for gate in content["fires"])
        given = {one["ParameterKey"]: one["ParameterValue"] for one in parameters["Parameters"] if "ParameterValue" in one}
        minutes = parameters["RollbackConfiguration"]["MonitoringTimeInMinutes"]
        update = {"gives": given, "triggers": [one["Arn"].removeprefix(ALARM) for one in triggers], "minutes": minutes}
        update |= {"name": parameters["ChangeSetName"].rsplit("-", 3)[0], "template": "TemplateBody" in parameters}
        content["calls"].append(["update", update])
        fails = {"ParameterKey": "Fails", "ParameterValue": "yes" if fires or given.get("ImageId") in content.get("breaks", []) else "no"}
        others = [one for one in parameters["Parameters"] if one["ParameterKey"] != "Fails"]
        return call({**parameters, "Parameters": [*others, fails] if len(others) < len(parameters["Parameters"]) else others})

    def cloudformation_ExecuteChangeSet(self, content, client, parameters, call):
        content["left"], content["updated"], content["cancelled"] = content["busy"], content["clock"], False
        # For so long CloudFormation looks at the triggers.
        content["clock"] += content["calls"][-1][1]["minutes"] * 60
        return call(parameters)

    def cloudformation_CancelUpdateStack(self, content, client, parameters, call):
        content["calls"].append(["cancel", parameters["StackName"]])
        content["cancelled"] = True
        return {}

    def cloudformation_DescribeStacks(self, content, client, parameters, call):
        answer = call(parameters)
        content["clock"] += content["seconds"]
        # What happens only after a while.
        if content.get("later", {}).get("clock", content["clock"] + 1) <= content["clock"]:
            content.update(alarms=content.pop("later")["alarms"])
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=content["clock"])
        answer["ResponseMetadata"]["HTTPHeaders"]["date"] = f"{now:%a, %d %b %Y %H:%M:%S} GMT"
        for stack in answer["Stacks"]:
            if stack["StackName"].endswith("-service") and "LastUpdatedTime" in stack:
                stack["LastUpdatedTime"] += datetime.timedelta(seconds=content["updated"])
                if content["left"] > 0:
                    content["left"] -= 1
                    stack["StackStatus"] = "UPDATE_ROLLBACK_IN_PROGRESS" if content["cancelled"] else "UPDATE_IN_PROGRESS"
        return answer


def moment(text):
    return datetime.datetime.fromisoformat(text)


def error(client, operation, code, message):
    return botocore.exceptions.ClientError({"Error": {"Code": code, "Message": message}}, operation)


@contextlib.contextmanager
def installed(world):
    """The stand-in beneath all clients of this process but the tests' own."""
    real, sleep, counts = botocore.client.BaseClient._make_api_call, time.sleep, {}

    def stand_in(self, operation, parameters):
        if self.meta.config.user_agent_appid == "tests":
            return real(self, operation, parameters)
        service = {"elasticloadbalancing": "elbv2", "monitoring": "cloudwatch"}.get(
            self.meta.service_model.signing_name, self.meta.service_model.signing_name
        )
        handler = getattr(world, f"{service}_{operation}", None)
        counts[operation] = counts.get(operation, 0) + 1
        world.operations.append(operation)
        kill = world.read()["kill"]
        mortal = kill and kill[:2] == [operation, counts[operation]]
        if counts.get("hangs"):
            world.path.with_name("hangs").touch()
            sleep(60)
        if mortal and kill[2] == "before":
            os.kill(os.getpid(), [*kill, signal.SIGKILL][3])
        errors = world.read()["errors"]
        if errors and errors[0] == operation and errors[2] <= counts[operation] < errors[2] + errors[3]:
            raise error(self, operation, errors[1], "no answer")
        try:
            if handler is None:
                return real(self, operation, parameters)
            with world.changed() as content:
                if service == "cloudformation" and operation != "CancelUpdateStack":
                    return handler(content, self, parameters, lambda changed: real(self, operation, changed))
                emulator.RECORDER["note"](self, operation)
                return handler(content, self, parameters, *[None] * (service == "cloudformation"))
        finally:
            if mortal:
                counts["hangs"] = int(world.read()["hangs"])
                os.kill(os.getpid(), [*kill, signal.SIGKILL][3])

    make = boto3.Session.client

    def client(self, service, **more):
        if "aws_access_key_id" in more:
            # The tests' own.
            return make(self, service, **more)
        key = service, self.get_credentials().access_key, os.environ["AWS_ENDPOINT_URL"], self.region_name
        if key not in CLIENTS:
            CLIENTS[key] = make(self, service, **more)
        return CLIENTS[key]

    with (
        mock.patch.object(boto3.Session, "client", client),
        mock.patch.object(botocore.client.BaseClient, "_make_api_call", stand_in),
        mock.patch.object(time, "sleep", lambda seconds: sleep(min(seconds, 0.01))),
    ):
        yield


def world(path, emulated, account):
    """The stacks of an account of its own, as a deploy has made them."""
    path.mkdir(exist_ok=True)
    # Those of the test before.
    CLIENTS.clear()
    folder = Folder(path, emulated, account)
    folder.template("30-data.yaml", DATA)
    folder.template("50-edge.yaml", EDGE)
    folder.template("60-service.yaml", SERVICE)
    one = World(path / "world.json", folder)
    client = one.cloudformation
    for name, body in (("data", DATA), ("edge", EDGE)):
        client.create_stack(StackName=f"salebell-dev-{name}", TemplateBody=body)
    client.create_stack(StackName="salebell-dev-service", TemplateBody=SERVICE, ClientRequestToken=f"deploy-1-{OLD}")
    emulator.until(lambda: folder.status("service") == "CREATE_COMPLETE", "the service")
    return one
