"""The OCI image: read by umoci, run by crun with a read-only root and without a capability, asked from outside. In a network
namespace of its own, so that its own ports are free; the PostgreSQL is that of with-postgres.sh."""

import json
import os
import pathlib
import re
import subprocess
import tarfile

import pytest
from client import Client
from conftest import wanted
from machine import REPOSITORY, wait

NUMBER = 650


class Container:
    """A bundle of the image, which crun runs."""

    def __init__(self, folder, layout, tag, name, command, settings=()):
        self.name, self.folder = name, folder / name
        subprocess.run(["umoci", "unpack", "--image", f"{layout}:{tag}", self.folder], check=True, capture_output=True)
        config = json.loads((self.folder / "config.json").read_text())
        self.declared = json.loads(json.dumps(config))
        process = config["process"]
        process |= {"terminal": False, "capabilities": {}, "noNewPrivileges": True}
        # Those of this machine, which may not be more than it has.
        del process["rlimits"]
        process["env"] += [f"SALEBELL_DATABASE__URL={os.environ['DATABASE_URL']}", *settings]
        if command:
            process["args"] = [process["args"][0], *command]
        config["root"]["readonly"] = True
        # The network is that of the tests; there are no control groups of its own.
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]
        config["mounts"] = [one for one in config["mounts"] if one["type"] != "cgroup"]
        # A host gives a volume the owner of its folder in the image. umoci leaves that to the runtime: crun 1.8 makes one that
        # anybody may write to, crun 1.21 one that is root's.
        for mount in config["mounts"]:
            if (mount["type"], mount["source"]) == ("tmpfs", "none"):
                of = (self.folder / "rootfs" / mount["destination"].lstrip("/")).stat()
                mount["options"] += [f"uid={of.st_uid}", f"gid={of.st_gid}", f"mode={of.st_mode & 0o7777:o}"]
        (self.folder / "config.json").write_text(json.dumps(config))
        self.log = open(self.folder / "log", "wb")
        self.crun = ["crun", "--root", str(folder / "state"), "--cgroup-manager=disabled"]
        self.process = subprocess.Popen(
            [*self.crun, "run", "--bundle", self.folder, name], stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT
        )

    def execute(self, *command):
        return subprocess.run([*self.crun, "exec", self.name, *command], capture_output=True, text=True, timeout=60)

    def pid(self):
        state = subprocess.run([*self.crun, "state", self.name], check=True, capture_output=True, text=True)
        return json.loads(state.stdout)["pid"]

    def said(self):
        return (self.folder / "log").read_text(errors="replace")

    def stop(self):
        """What a host does: SIGTERM, and then it waits. Returns the exit code."""
        if self.process.poll() is None:
            subprocess.run([*self.crun, "kill", self.name, "TERM"], check=True)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def archive():
    return pathlib.Path(wanted("SALEBELL_TEST_OCI"))


@pytest.fixture(scope="module")
def run(archive, tmp_path_factory):
    """Runs the image with a command; what still runs at the end is ended."""
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "layout", filter="data")
    index = json.loads((folder / "layout/index.json").read_text())
    tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
    containers = []

    def start(name, command=(), settings=()):
        containers.append(Container(folder, folder / "layout", tag, name, command, settings))
        return containers[-1]

    yield start
    for container in containers:
        if container.process.poll() is None:
            subprocess.run([*container.crun, "delete", "--force", container.name], check=False)
            container.process.wait(timeout=30)


@pytest.fixture(scope="module")
def api(run):
    migrated = run("migrate", ["migrate"])
    assert migrated.process.wait(timeout=120) == 0, migrated.said()
    return run("api")


def test_the_image_serves_with_a_read_only_root_and_no_rights(api):
    anybody = Client("127.0.0.1", None)
    wait("it is ready", lambda: answers(anybody, "/readyz") or api.process.poll() is not None)
    assert anybody.ask("GET", "/healthz")[0] == 200, api.said()
    status = pathlib.Path(f"/proc/{api.pid()}/status").read_text()
    assert re.search(rf"^Uid:\t{NUMBER}\t{NUMBER}\t", status, re.MULTILINE), status
    assert re.findall(r"^Cap(?:Eff|Prm|Bnd|Amb):\t0+$", status, re.MULTILINE), status
    [root] = re.findall(r"^\S+ \S+ \S+ \S+ / (\S+)", pathlib.Path(f"/proc/{api.pid()}/mountinfo").read_text(), re.MULTILINE)
    assert "ro" in root.split(",")

    # An upload is written to its volume.
    key = api.execute("/usr/bin/salebell", "key", "create", "--subject", "anna")
    assert key.returncode == 0, key.stderr
    anna = Client("127.0.0.1", key.stdout.strip())
    status, _, body = anna.ask("POST", "/v1/files?name=some", b"some")
    assert status == 201, (body, api.said())
    assert anna.items("/v1/files")[0]["state"] == "complete"


def answers(client, path):
    try:
        return client.ask("GET", path, seconds=2)[0] == 200
    except OSError:
        return False


def test_its_health_check_tells_good_from_bad(run, api):
    # As a host runs it, by the image's own words.
    index = json.loads((api.folder.parent / "layout/index.json").read_text())
    blobs = api.folder.parent / "layout/blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())["config"]
    kind, *check = config["Healthcheck"]["Test"]
    assert kind == "CMD"
    wait("it listens", lambda: api.execute(*check).returncode == 0)

    worker = run("worker", ["worker"], ["SALEBELL_INSTANCE__READY_URL=http://127.0.0.1:9101/metrics"])
    wait("the worker is well", lambda: worker.execute(*check).returncode == 0)
    assert worker.stop() == 0, worker.said()

    # One that does not answer.
    os.kill(api.pid(), 19)
    try:
        bad = api.execute(*check)
        assert bad.returncode == 1 and "not ready within 3 s" in bad.stderr, bad
    finally:
        os.kill(api.pid(), 18)


def test_sigterm_drains_and_ends_with_zero(api):
    assert api.stop() == 0, api.said()


def test_the_image_has_nothing_to_log_in_with(api):
    root = api.folder / "rootfs"
    programs = sorted(path.name for path in (root / "usr/bin").iterdir())
    assert programs == ["salebell"]
    assert not any((root / "usr/sbin").iterdir())
    shells = [path for path in root.rglob("*") if path.name in ("sh", "bash", "dash", "busybox", "apt", "dpkg") and path.is_file()]
    assert shells == []
    lent = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o6000]
    assert lent == []
    assert sorted(path.name for path in (root / "var/lib/dpkg/status.d").iterdir()) == [
        "base-files", "ca-certificates", "libc6", "libgcc-s1", "netbase",
    ]  # fmt: skip
    certificates = (root / "etc/ssl/certs/ca-certificates.crt").read_text()
    assert certificates.count("-----BEGIN CERTIFICATE-----") == certificates.count("-----END CERTIFICATE-----\n") > 100


def test_its_configuration_says_what_it_is(api):
    declared = api.declared
    assert declared["process"]["user"] == {"uid": NUMBER, "gid": NUMBER}
    assert declared["process"]["args"] == ["/usr/bin/salebell", "api"]
    labels = declared["annotations"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()
    assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == head
    packed = wanted("SALEBELL_TEST_PACKAGE")
    assert f"salebell_{labels['org.opencontainers.image.version']}_" in packed
