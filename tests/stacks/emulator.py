"""MiniStack, an emulated AWS, as a process of its own on a free port of the loopback, and the operator's commands against it."""

import contextlib
import functools
import io
import json
import os
import pathlib
import runpy
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from unittest import mock

import boto3
import botocore.config
import botocore.loaders
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = ROOT / "scripts" / "stacks"
LIBRARY = ROOT / "scripts" / "lib"
REGION = "eu-central-1"
# Those of the other folders are called by their names alone, too.
sys.path[:0] = [str(COMMANDS), str(LIBRARY), str(ROOT / "scripts" / "operate"), str(ROOT / "scripts" / "rollout")]

import templates  # noqa: E402

# Writes down what the commands call, in this process and in theirs.
RECORDING = pathlib.Path(__file__).with_name("recording")
RECORDED = {name: os.environ[name] for name in ("SALEBELL_TEST_CALLS",) if name in os.environ}
RECORDER = runpy.run_path(str(RECORDING / "sitecustomize.py"))
# Models of AWS's services are read once, not once a command of this process: it is most of a command's time.
botocore.loaders.create_loader = functools.cache(botocore.loaders.create_loader)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Emulator:
    """The running MiniStack. What it says is in `log`."""

    def __init__(self, folder, account="000000000000"):
        self.log = folder / "ministack.log"
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            # MiniStack takes a key of twelve digits for the number of the account.
            "AWS_ACCESS_KEY_ID": account,
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        emulator = {
            **self.environment,
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1",
            # It listens on all addresses otherwise.
            "IOT_MTLS_ENABLED": "0",
            "MINISTACK_REGION": REGION,
        }
        stubs = pathlib.Path(__file__).with_name("stubs.py")
        with self.log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, stubs], env=emulator, cwd=folder, stdout=log, stderr=log)
        until(self.ready, "MiniStack to answer", 60)

    def ready(self):
        if self.process.poll() is not None:
            pytest.fail(f"MiniStack has ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return urllib.request.urlopen(f"{self.endpoint}/_ministack/health", timeout=5).status == 200

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def client(self, service):
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key="test",
            config=botocore.config.Config(user_agent_appid="tests"),
        )

    def start(self, program, *words, **environment):
        """A command of the operator that runs beside the test, its output in a pipe."""
        return subprocess.Popen(
            [sys.executable, LIBRARY / "start.py", command(program), *arguments(words)],
            env={**self.environment, "PYTHONPATH": f"{RECORDING}:{COMMANDS}:{LIBRARY}", **RECORDED, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, program, *words, answers="", code=0, **environment):
        """The same as `run` in this process, in a third of the time. With the code None also what it ended with."""
        folder, said = templates.FOLDER, io.StringIO()
        with (
            mock.patch.dict(os.environ, {**self.environment, **environment}, clear=True),
            mock.patch.multiple(sys, argv=[program, *arguments(words)], stdin=io.StringIO(answers), stdout=said, stderr=said),
        ):
            try:
                runpy.run_path(str(command(program)), run_name="__main__")
            except SystemExit as end:
                ended = int(end.code or 0)
            finally:
                templates.FOLDER = folder
        if code is None:
            return ended, said.getvalue()
        if ended == 130:
            # Ctrl-C was meant for the tests.
            raise KeyboardInterrupt
        assert ended == code, f"{program} {words} ended with {ended}, not {code}:\n{said.getvalue()}"
        return said.getvalue()

    def run(self, program, *words, answers="", code=0, **environment):
        """What a command of the operator says, which must end with `code`."""
        process = self.start(program, *words, **environment)
        text, _ = process.communicate(answers, timeout=200)
        assert process.returncode == code, f"{program} {words} ended with {process.returncode}, not {code}:\n{text}"
        return text


class Folder:
    """Templates of a test's own, and the commands on them. Each test has an account of its own, and so its own stacks."""

    def __init__(self, path, emulator, account):
        self.path, self.emulator = path, emulator
        self.credentials = {"AWS_ACCESS_KEY_ID": account, "AWS_SECRET_ACCESS_KEY": "test"}
        (path / "parameters").mkdir()

    def template(self, name, text):
        (self.path / name).write_text(text)

    def values(self, environment, **values):
        (self.path / "parameters" / f"{environment}.json").write_text(json.dumps(values))

    def words(self, words):
        return (f"--folder={self.path}", *words)

    def run(self, program, *words, environment="dev", **more):
        return self.emulator.call(program, f"--environment={environment}", *self.words(words), **self.credentials, **more)

    def start(self, program, *words):
        return self.emulator.start(program, "--environment=dev", *self.words(words), **self.credentials)

    def client(self, service):
        # Not the commands: recording/sitecustomize.py.
        config = botocore.config.Config(user_agent_appid="tests")
        client = {"endpoint_url": self.emulator.endpoint, "region_name": REGION, "config": config}
        keys = {"aws_access_key_id": self.credentials["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": "test"}
        return boto3.client(service, **client, **keys)

    def stack(self, name):
        return self.client("cloudformation").describe_stacks(StackName=f"salebell-dev-{name}")["Stacks"][0]

    def status(self, name):
        stacks = self.client("cloudformation").list_stacks()["StackSummaries"]
        found = [stack for stack in stacks if stack["StackName"].endswith(f"-{name}")]
        return found[0]["StackStatus"] if found else None

    def handle(self):
        """The signal that the stack of SLOW waits for, and whether it is there to be given."""
        if self.status("slow") is None:
            return None
        resources = self.client("cloudformation").describe_stack_resources(StackName="salebell-dev-slow")["StackResources"]
        return next((one["PhysicalResourceId"] for one in resources if one["LogicalResourceId"] == "Handle"), None)

    def signal(self, status="SUCCESS"):
        body = json.dumps({"Status": status, "UniqueId": "1", "Data": "", "Reason": "as the test wants"})
        curl = ["curl", "-sS", "--noproxy", "*", "-X", "PUT", "-H", "content-type:", "--data-binary", body, self.handle()]
        subprocess.run(curl, check=True, timeout=20)


def command(name):
    """The file of a command, as scripts/stacks.sh finds it."""
    (path,) = (ROOT / "scripts").glob(f"*/{name}.py")
    return path


def arguments(words):
    """Those of a command: options as they are, and `Name=value` of parameters behind all of them."""
    options, given = ([str(word) for word in words if str(word).startswith("--") == option] for option in (True, False))
    return [*options, *(["--parameters", *given] if given else [])]


def until(condition, what, seconds=30):
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"waited {seconds} s in vain for {what}")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    one = Emulator(tmp_path_factory.mktemp("ministack"))
    yield one
    one.stop()
