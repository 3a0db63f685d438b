"""The commands of the pipelines' steps, run: against an emulated AWS, `salebell dev`, and programs of the machine."""

import configparser
import hashlib
import http.server
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import types
import zipfile
from unittest import mock

import boto3
import emulator as emulators
import pytest
import yaml
from emulator import Folder, emulator, free_port, until  # noqa: F401
from resolve import ROOT, of_type
from test_settings import binary

FOLDER = ROOT / "scripts" / "pipelines"
sys.path.insert(0, str(FOLDER))

import smoke  # noqa: E402
import verify_image  # noqa: E402
from cloud import Refusal  # noqa: E402

BUS = """
Parameters: { Environment: { Type: String, Default: dev }, Name: { Type: String, Default: one } }
Resources:
  Queue: { Type: AWS::SQS::Queue, Properties: { QueueName: !Sub "${Environment}-${Name}" } }
"""
OTHER = 'Resources: { Topic: { Type: AWS::SNS::Topic } }\nParameters: { Environment: { Type: String, Default: dev } }\n'


@pytest.fixture
def folder(tmp_path, emulator):  # noqa: F811
    return Folder(tmp_path, emulator, "000000000123")


def run(folder, *words, **more):
    with mock.patch.object(emulators, "COMMANDS", FOLDER):
        return folder.run("change_sets", *words, **more)


def calls_of(said_by):
    """The actions of a table of cloudformation/calls."""
    table = yaml.safe_load((ROOT / f"cloudformation/calls/{said_by}.yaml").read_text())
    return {call["action"] for call in table["calls"]}


# make change-sets


def test_change_sets_are_shown_and_change_nothing(folder):
    folder.template("10-bus.yaml", BUS)
    folder.template("20-later.yaml", OTHER)
    folder.run("deploy", "--yes", "--stack=bus")
    folder.values("dev", bus={"Name": "two"})
    before = folder.stack("bus")
    s3 = folder.client("s3")
    s3.create_bucket(Bucket="texts", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    said = run(folder, "--to=s3://texts/changes/1.txt")
    assert "Queue AWS::SQS::Queue is REPLACED" in said and "20-later" not in said
    assert "salebell-dev-later\n    + is made, with 1 resources or less" in said
    text = s3.get_object(Bucket="texts", Key="changes/1.txt")["Body"].read().decode()
    assert text.startswith("What a deploy of dev in account 000000000123") and "! Queue AWS::SQS::Queue is REPLACED" in text
    # Nothing is left of it.
    cloudformation = folder.client("cloudformation")
    left = cloudformation.list_change_sets(StackName="salebell-dev-bus")["Summaries"]
    assert [one["ChangeSetName"] for one in left if one["ExecutionStatus"] != "EXECUTE_COMPLETE"] == []
    assert folder.stack("bus") == before and folder.status("later") is None


def test_a_text_goes_nowhere_else(folder):
    folder.template("10-bus.yaml", BUS)
    assert "TO=file:///tmp/x: must be s3://bucket/key" in run(folder, "--to=file:///tmp/x", code=1)
    assert "s3://not-there/x cannot be written" in run(folder, "--to=s3://not-there/x", code=1)


# make verify-image


class Cloud:
    """What make verify-image asks of AWS: an instance, its agent and the checks on it, as this test has them."""

    def __init__(self, **ways):
        self.asked, self.ways, self.there, self.pings = [], ways, ways.get("left", False), 0
        self.cloudformation = self

    def client(self, service):
        return self

    def __getattr__(self, operation):
        def call(**arguments):
            self.asked.append((operation, arguments))
            return getattr(type(self), f"on_{operation}")(self, **arguments)

        return call

    def on_describe_images(self, ImageIds):
        image = {"ImageId": ImageIds[0], "Name": "salebell-arm64-1", "State": "available", "Architecture": "arm64"}
        return {"Images": [{**image, **self.ways.get("image", {})}]}

    def on_create_stack(self, **arguments):
        self.there = True
        return {"StackId": "one"}

    def on_describe_instance_information(self, Filters):
        self.pings += 1
        return {"InstanceInformationList": [{"PingStatus": "Online"}] * (self.pings > 1 and "state" not in self.ways)}

    def on_describe_instances(self, InstanceIds):
        return {"Reservations": [{"Instances": [{"State": {"Name": self.ways.get("state", "running")}}]}]}

    def on_get_console_output(self, InstanceId):
        return {"Output": "first-boot: no metadata; this machine is given up"}

    def on_send_command(self, **arguments):
        return {"Command": {"CommandId": "c"}}

    def on_get_command_invocation(self, **arguments):
        text = "time       ok     412 ms (91 for the settings), 21034 ms from the start\n13 checks, 0 failed"
        return {"Status": self.ways.get("checks", "Success"), "StandardOutputContent": text}


class Account:
    environment, prefix, endpoint, number, region = "tools", "salebell-tools-", None, "444455556666", "eu-central-1"

    def __init__(self, cloud, place=True):
        self.cloud, self.client, self.cloudformation, self.place = cloud, cloud.client, cloud, place

    def introduce(self, what):
        print(what)

    def command(self, operation, **arguments):
        return f"$ aws cloudformation {operation}"

    def stack(self, name):
        if name == "salebell-tools-pipelines":
            given = {"TrialSecurityGroup": "sg-1", "TrialProfile": "p", "Subnet": "subnet-1"} if self.place else {}
            return {"Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in given.items()]}
        return {"StackName": name, "StackId": "one", "StackStatus": "CREATE_COMPLETE"} if self.cloud.there else None

    def follow(self, stack_id, token=None):
        outputs = [{"OutputKey": "Instance", "OutputValue": "i-1"}]
        return {"StackName": "x", "StackStatus": "CREATE_COMPLETE", "Outputs": outputs}, ""

    def delete(self, stack):
        self.cloud.asked.append(("delete_stack", {}))
        self.cloud.there = False
        return {"StackStatus": "DELETE_COMPLETE"}, ""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def verify(cloud, **more):
    return verify_image.main(Account(cloud, **more), types.SimpleNamespace(image="ami-1"))


@pytest.mark.parametrize("checks, bad", [("Success", False), ("Failed", True), ("TimedOut", True)])
def test_an_image_is_started_looked_at_and_ended(quick, capsys, checks, bad):
    cloud = Cloud(checks=checks)
    assert verify(cloud) == bad
    said = capsys.readouterr().out
    assert "21034 ms from the start" in said and ("ami-1 is NOT GOOD" in said) == bad
    asked = [operation for operation, _ in cloud.asked]
    assert asked[-1] == "delete_stack" and not cloud.there
    (made,) = [arguments for operation, arguments in cloud.asked if operation == "create_stack"]
    given = {one["ParameterKey"]: one["ParameterValue"] for one in made["Parameters"]}
    template = yaml.load(made["TemplateBody"], emulators.templates.Loader)
    assert given.keys() == template["Parameters"].keys()
    assert given["FirstBoot"] == (ROOT / "userdata/first-boot.sh").read_text() and given["InstanceType"] == "t4g.small"
    # Each of these is in the table of its role.
    services = {"describe_images": "ec2", "describe_instances": "ec2", "get_console_output": "ec2", "create_stack": "cloudformation",
                "delete_stack": "cloudformation", "describe_instance_information": "ssm", "send_command": "ssm",
                "get_command_invocation": "ssm"}  # fmt: skip
    actions = {f"{services[one]}:{one.title().replace('_', '')}" for one in asked}
    assert actions - calls_of("verify") == set()


def test_an_image_that_gives_itself_up_is_ended_and_its_console_shown(quick, capsys):
    cloud = Cloud(state="terminated")
    with pytest.raises(Refusal, match="it has given itself up"):
        verify(cloud)
    assert "no metadata; this machine is given up" in capsys.readouterr().out and not cloud.there


def test_what_an_earlier_run_has_left_is_ended_first(quick):
    cloud = Cloud(left=True)
    assert not verify(cloud)
    asked = [operation for operation, _ in cloud.asked]
    assert asked.index("delete_stack") < asked.index("create_stack")


@pytest.mark.parametrize(
    "ways, more, why",
    [({"image": {"State": "pending"}}, {}, "is pending"), ({"image": {"Architecture": "i386"}}, {}, "for i386"), ({}, {"place": False}, "Vpc")],
)
def test_an_image_that_cannot_be_tried_is_refused(quick, ways, more, why):
    cloud = Cloud(**ways)
    with pytest.raises(Refusal, match=why):
        verify(cloud, **more)
    assert "create_stack" not in [operation for operation, _ in cloud.asked]


def test_the_stack_of_a_trial_is_sound(stacks, tmp_path):
    from lint import lint

    path = FOLDER / "trial.yaml"
    assert lint([path]).get(str(path), []) == []
    instance = yaml.load(path.read_text(), emulators.templates.Loader)["Resources"]["Instance"]["Properties"]
    service = stacks.resolved("prod")["service"]["Resources"]["LaunchTemplate"]["Properties"]["LaunchTemplateData"]
    for name in ("HttpTokens", "HttpPutResponseHopLimit", "InstanceMetadataTags"):
        assert instance["MetadataOptions"][name] == service["MetadataOptions"][name]
    assert instance["InstanceInitiatedShutdownBehavior"] == service["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert {"Key": "Environment", "Value": "verify"} in instance["Tags"]


def trial_settings(stacks):
    """What an image on trial reads, over what the image has."""
    settings = tomllib.loads((ROOT / "systemd/salebell/appliance.toml").read_text())
    for _, resource in of_type(stacks.resolved("prod")["pipelines"], "AWS::SSM::Parameter"):
        root, environment, area, name = resource["Properties"]["Name"].strip("/").split("/")
        assert (root, environment) == ("salebell", "verify")
        settings.setdefault(area, {})[name] = resource["Properties"]["Value"]
    return settings


def test_an_image_on_trial_is_ready_without_a_database(stacks, tmp_path):
    settings, port = trial_settings(stacks), free_port()
    assert settings["instance"]["ready_url"] == "https://127.0.0.1:8443/healthz" and settings["server"]["listen"].endswith(":8443")
    environment = {
        "PATH": os.environ["PATH"],
        "SALEBELL_SERVER__LISTEN": f"127.0.0.1:{port}",
        "SALEBELL_SERVER__GRPC_LISTEN": "127.0.0.1:0",
        "SALEBELL_SERVER__METRICS_LISTEN": "127.0.0.1:0",
        "SALEBELL_WORKER__METRICS_LISTEN": "127.0.0.1:0",
        "SALEBELL_INSTANCE__READY_URL": f"https://127.0.0.1:{port}/healthz",
        "SALEBELL_FILES__DIRECTORY": str(tmp_path),
        "SALEBELL_TELEMETRY__EMF": "off",
        "SALEBELL_LOG__TO": "stderr",
    }
    file = tmp_path / "config.toml"
    file.write_text("".join(f"[{area}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in of.items()) for area, of in settings.items()))
    command = [binary(), "--config", file]
    services = [subprocess.Popen([*command, name], env=environment, stderr=subprocess.DEVNULL) for name in ("api", "worker")]
    try:
        ready = subprocess.run([*command, "ready"], env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert ready.returncode == 0 and "instance.launch_hook is not set" in ready.stderr, ready.stderr
        assert [service.poll() for service in services] == [None, None]
    finally:
        for service in services:
            service.kill()
            service.wait()


# make smoke


def smoked(url, grpc, key=""):
    account = types.SimpleNamespace(environment="dev", prefix="salebell-dev-", introduce=print, stack=lambda name: None)
    with mock.patch.dict(os.environ, {"SALEBELL_KEY": key}):
        return smoke.main(account, types.SimpleNamespace(url=url, grpc=grpc))


def test_a_bell_rings_in_a_smoke_test_of_a_running_service(tmp_path):
    api, grpc = free_port(), free_port()
    environment = {**os.environ, "SALEBELL_SERVER__GRPC_LISTEN": f"127.0.0.1:{grpc}", "SALEBELL_SERVER__METRICS_LISTEN": "127.0.0.1:0"}
    log = tmp_path / "log"
    with log.open("w") as file:
        dev = subprocess.Popen([binary(), "dev", "--listen", f"127.0.0.1:{api}"], cwd=tmp_path, env=environment, stdout=file, stderr=file)
    try:
        until(lambda: "Salebell is ready" in log.read_text(), f"salebell dev:\n{log.read_text()}", 90)
        key = (tmp_path / ".salebell/dev-token").read_text().strip()
        # Twice: the second sale is another one.
        for _ in range(2):
            assert not smoked(f"http://127.0.0.1:{api}", f"http://127.0.0.1:{grpc}", key)
        with pytest.raises(Refusal, match="401"):
            smoked(f"http://127.0.0.1:{api}", f"http://127.0.0.1:{grpc}", "sbk_no-such-key")
    finally:
        dev.terminate()
        dev.wait(30)


def test_a_smoke_test_sees_a_service_that_is_broken(capsys, monkeypatch):
    monkeypatch.setattr(smoke, "PAUSE_S", 0)

    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(500)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert smoked(f"http://127.0.0.1:{server.server_port}", f"http://127.0.0.1:{free_port()}")
    finally:
        server.shutdown()
    said = capsys.readouterr().out
    assert said.count("NOT SO") == 3 and "3 of these failed" in said


def test_a_smoke_test_wants_a_name():
    with pytest.raises(Refusal, match="STACK=edge"):
        smoked("", "")


# The role of an environment


def profile(tmp_path, *words, code=0):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_REGION": "eu-central-1"}
    ended = subprocess.run([FOLDER / "write-profile.sh", *words], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    return tmp_path / ".aws/config"


def test_a_step_becomes_the_role_of_its_environment(tmp_path, emulator):  # noqa: F811
    class Container(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = {"AccessKeyId": "ASIAX", "SecretAccessKey": "x", "Token": "x", "Expiration": "2099-01-01T00:00:00Z"}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *words):
            pass

    config = profile(tmp_path, "stage", "222233334444", "rollout")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Container)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_PROFILE": "salebell",
        "AWS_SDK_UA_APP_ID": "pipeline",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{server.server_port}/",
        "AWS_ENDPOINT_URL": emulator.endpoint,
    }
    try:
        with mock.patch.dict(os.environ, environment, clear=True):
            session = boto3.Session()
            assert session.region_name == "eu-central-1"
            identity = session.client("sts").get_caller_identity()
    finally:
        server.shutdown()
    assert re.fullmatch(r"arn:aws:sts::\d+:assumed-role/salebell-stage-rollout/pipeline", identity["Arn"]), identity


def test_a_profile_has_no_key_and_no_other_role(tmp_path):
    parsed = configparser.ConfigParser()
    parsed.read(profile(tmp_path, "prod", "333344445555", "deploy"))
    assert parsed["profile salebell"]["role_arn"] == "arn:aws:iam::333344445555:role/salebell-prod-deploy"
    assert parsed["profile salebell"].keys() == {"role_arn", "role_session_name", "credential_source", "region"}
    for words in (("prod", "333344445555", "execution"), ("tools", "333344445555", "deploy"), ("prod", "", "deploy")):
        profile(tmp_path, *words, code=1)


def test_a_profile_of_a_person_is_left_alone(tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text("[profile mine]\n")
    profile(tmp_path, "prod", "333344445555", "deploy", code=1)
    assert (tmp_path / ".aws/config").read_text() == "[profile mine]\n"


# The migration, and the file of an image


@pytest.fixture(scope="module")
def publish():
    path = ROOT / "packer" / "publish-image.py"
    spec = importlib.util.spec_from_file_location("publish_image", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def release(publish, tmp_path):
    """The folder of a job that migrates by an image whose binary says what it was called with."""
    made, folder = tmp_path / "made", tmp_path / "job"
    made.mkdir()
    (made / "salebell").write_text('#!/bin/sh\necho "called with $*, as $SALEBELL_DATABASE__USER"\n')
    checksum = hashlib.sha256((made / "salebell").read_bytes()).hexdigest()
    manifest = {"schema": 1, "name": "salebell-arm64-0a1b", "version": "1.0.0", "files": {"/usr/bin/salebell": checksum, "/x": "00"}}
    (made / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    publish.write_migration(made / "migrate.zip", made / "salebell", manifest)
    with zipfile.ZipFile(made / "migrate.zip") as archive:
        archive.extractall(folder)
    return folder


def migrate(folder, name, code=0):
    """What the job does: the command of its buildspec. Nothing in an archive may be executable by itself."""
    (command,) = yaml.safe_load((folder / "pipelines/migrate.yaml").read_text())["phases"]["build"]["commands"]
    environment = {"PATH": os.environ["PATH"], "IMAGE_NAME": name, "SALEBELL_DATABASE__USER": "migrator"}
    ended = subprocess.run(["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode != 0) == bool(code), ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_a_database_is_migrated_by_the_binary_of_the_image(release):
    assert "called with migrate, as migrator" in migrate(release, "salebell-arm64-0a1b")
    assert (release / "rds.pem").read_text() == (ROOT / "packer/files/etc/salebell/rds.pem").read_text()


def test_another_release_or_another_binary_migrates_nothing(release):
    assert "this is not the release of salebell-arm64-ffff: salebell-arm64-0a1b" in migrate(release, "salebell-arm64-ffff", code=1)
    assert "an image without a name" in migrate(release, "", code=1)
    with (release / "salebell").open("a") as binary_file:
        binary_file.write("# changed\n")
    said = migrate(release, "salebell-arm64-0a1b", code=1)
    assert "and the manifest of salebell-arm64-0a1b says" in said and "called with" not in said


def test_a_binary_that_is_not_in_the_image_is_not_published(publish, tmp_path):
    (tmp_path / "salebell").write_text("another")
    with pytest.raises(SystemExit, match="is not the /usr/bin/salebell of the image"):
        publish.write_migration(tmp_path / "migrate.zip", tmp_path / "salebell", {"files": {"/usr/bin/salebell": "00"}})
    assert not (tmp_path / "migrate.zip").exists()


def test_the_file_of_an_image_says_which_it_is_once_all_is_published(publish, tmp_path, monkeypatch):
    (tmp_path / "salebell").write_text("binary")
    checksum = hashlib.sha256(b"binary").hexdigest()
    known = {"name": "salebell-arm64-0a1b", "version": "1.0.0", "commit": "0a1b", "architecture": "arm64"}
    (tmp_path / "manifest.json").write_text(json.dumps({**known, "files": {"/usr/bin/salebell": checksum}}))
    (tmp_path / "sbom.cdx.json").write_text("{}")
    build = {"packer_run_uuid": "1", "artifact_id": "eu-central-1:ami-0a,eu-west-1:ami-0b"}
    (tmp_path / "packer-manifest.json").write_text(json.dumps({"last_run_uuid": "1", "builds": [build]}))
    there, shared = [], []

    class Aws(mock.MagicMock):
        def describe_images(self, ImageIds):
            tags = [{"Key": "Version", "Value": "0a1b"}]
            image = {"State": "available", "Name": "x", "ImdsSupport": "v2.0", "BlockDeviceMappings": [{"Ebs": {"Encrypted": True}}]}
            return {"Images": [{**image, "Tags": tags}]}

        def describe_image_attribute(self, ImageId, Attribute):
            return {"LaunchPermissions": [{"UserId": user} for user in shared]}

        def upload_file(self, file, bucket, key):
            assert pathlib.Path(file).exists()
            there.append(f"{bucket}/{key}")

    monkeypatch.setattr(publish.boto3, "client", lambda *words, **more: Aws())
    words = ["--output", tmp_path, "--binary", tmp_path / "salebell", "--regions", "eu-central-1 eu-west-1", "--publish-to", "s3://bucket/releases"]
    monkeypatch.setattr(sys, "argv", ["publish-image.py", *map(str, words), "--accounts", "111122223333"])
    with pytest.raises(SystemExit, match="is not shared with 111122223333"):
        publish.main()
    assert there == [] and not (tmp_path / "image.json").exists()
    shared.append("111122223333")
    publish.main()
    assert there == [f"bucket/releases/salebell-arm64-0a1b/{name}" for name in ("manifest.json", "sbom.cdx.json", "migrate.zip")]
    image = json.loads((tmp_path / "image.json").read_text())
    assert image == {"image": "ami-0a", **known, "regions": {"eu-central-1": "ami-0a", "eu-west-1": "ami-0b"}}
    said = subprocess.run(["make", "-n", "verify-image", f"IMAGE={tmp_path}/image.json"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--image='ami-0a'" in said.stdout


def test_the_settings_of_the_job_are_a_configuration(stacks, tmp_path):
    """The address, the user, a token of IAM, and the authorities beside the binary."""
    resolved = stacks.resolved("prod", ReleasesBucket="a-bucket")["data"]
    (project,) = [one["Properties"] for _, one in of_type(resolved, "AWS::CodeBuild::Project")]
    variables = {one["Name"]: one["Value"] for one in project["Environment"]["EnvironmentVariables"]}
    shutil.copy(ROOT / "packer/files/etc/salebell/rds.pem", tmp_path / "rds.pem")
    ended = subprocess.run([binary(), "check-config"], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "sslmode=verify-full" in variables["SALEBELL_DATABASE__URL"]


def test_the_stacks_of_the_tools_account_come_up(tmp_path, emulator):  # noqa: F811
    one = Folder(tmp_path, emulator, "000000000444")
    words = ["--environment=tools", "--yes"]
    given = ["Email=you@salebell.dev", "Repository=you/salebell", "DevAccount=111122223333", "Vpc=vpc-0a1b2c3d", "Subnet=subnet-0a1b2c3d"]
    refused = emulator.call("deploy", *words, **one.credentials, code=1)
    assert "delivery: Email is still the placeholder" in refused and "Repository is still the placeholder" in refused
    said = emulator.call("deploy", *words, *given, **one.credentials)
    assert "salebell-tools-pipelines" in said and "next: make status ENV=tools" in said
    cloudformation = one.client("cloudformation")
    stacks = {stack["StackName"]: stack["StackStatus"] for stack in cloudformation.describe_stacks()["Stacks"]}
    assert stacks == {"salebell-tools-pipelines": "CREATE_COMPLETE", "salebell-tools-delivery": "CREATE_COMPLETE"}
    projects = one.client("codebuild").list_projects()["projects"]
    assert {f"salebell-tools-{name}" for name in ("test", "check", "bake", "verify", "rollout", "deploy", "changes")} <= set(projects)
    (bake,) = one.client("codebuild").batch_get_projects(names=["salebell-tools-bake"])["projects"]
    variables = {each["name"]: each["value"] for each in bake["environment"]["environmentVariables"]}
    assert json.loads(variables["PKR_VAR_share_with_accounts"]) == ["111122223333"] and variables["PKR_VAR_subnet_id"] == "subnet-0a1b2c3d"
    assert emulator.call("deploy", *words, *given, **one.credentials).count("nothing to change") == 2
