"""Instances booted from one image or two in turns, on emulated AWS. See units.sh."""

import asyncio
import atexit
import http.server
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import boto3
from botocore.exceptions import BotoCoreError

HOST, METADATA, ADDRESS = "10.77.0.1", "169.254.169.254", "10.77.0.11"
REGION, ENVIRONMENT, GROUP, HOOK = "eu-central-1", "bench", "salebell-bench", "salebell-launch"
UNITS = ("boot", "terminating", "api", "worker", "ready")
LIMIT_S = 120

database, rounds, images = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
IDENTITY = {"region": REGION, "instanceId": "i-1", "availabilityZone": f"{REGION}a", "accountId": "123456789012"}
ROLE = {
    "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIABENCH", "SecretAccessKey": "bench", "Token": "bench",
    "Expiration": "2099-01-01T00:00:00Z", "LastUpdated": "2020-01-01T00:00:00Z",
}
TAGS = {"Environment": ENVIRONMENT, "aws:cloudformation:stack-name": "bench", "aws:autoscaling:groupName": GROUP}
KNOWN = {
    "user-data": open("userdata/first-boot.sh").read(),
    "meta-data/": "instance-id\nlocal-hostname",
    "meta-data/instance-id": "i-1",
    "meta-data/local-hostname": "i-1",
    "dynamic/instance-identity/document": json.dumps(IDENTITY),
    "meta-data/autoscaling/target-lifecycle-state": "InService",
    "meta-data/iam/security-credentials/": "bench",
    "meta-data/iam/security-credentials": "bench",
    "meta-data/iam/security-credentials/bench": json.dumps(ROLE),
} | {f"meta-data/tags/instance/{key}": value for key, value in TAGS.items()}


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, text, kind="text/plain"):
        # At once: a small answer must not wait for the peer's acknowledgement.
        lines = [f"HTTP/1.1 {status} -", f"Content-Type: {kind}", f"Content-Length: {len(text)}",
                 "x-aws-ec2-metadata-token-ttl-seconds: 21600", "", text]
        self.wfile.write("\r\n".join(lines).encode())

    def log_message(self, *_):
        pass


class Metadata(Quiet):
    """IMDS: version 2, and for cloud-init, which in a container sees no hardware of EC2, the oldest one."""

    def do_PUT(self):
        self.answer(200, "token")

    def do_GET(self):
        version, _, path = self.path.removeprefix("/").partition("/")
        path = urllib.parse.unquote(path)
        if version == "latest" and self.headers.get("x-aws-ec2-metadata-token") != "token":
            return self.answer(401, "")
        self.answer(200, KNOWN[path]) if path in KNOWN else self.answer(404, "")


class AutoScaling(Quiet):
    """Takes every call, and tells when the launch hook is completed."""

    completed = threading.Event()

    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
        action = form["Action"]
        if action == "CompleteLifecycleAction" and form["LifecycleActionResult"] == "CONTINUE":
            AutoScaling.completed.set()
        self.answer(200, f'<{action}Response xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><{action}Result/>'
                         f"<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>", "text/xml")


def serve(address, port, handler):
    server = http.server.ThreadingHTTPServer((address, port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def offer(port, target):
    """Makes what listens on loopback reachable for the instance."""
    async def pass_on(reader, writer):
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    async def take(reader, writer):
        there = await asyncio.open_connection(*target)
        await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

    async def listen():
        await (await asyncio.start_server(take, HOST, port)).serve_forever()

    threading.Thread(target=lambda: asyncio.run(listen()), daemon=True).start()


def resolve_nothing():
    """Knows no name, and says so at once (RFC 1035, section 4.1.1)."""
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind((HOST, 53))
    while True:
        message, peer = names.recvfrom(512)
        names.sendto(message[:2] + bytes([message[2] | 0x80, message[3] & 0xF0 | 3]) + message[4:], peer)


for line in (
    "link set lo up",
    "link add instances type bridge",
    f"address add {HOST}/24 dev instances",
    f"address add {METADATA}/32 dev instances",
    "link set instances up",
):
    subprocess.run(["ip", *line.split()], check=True)
serve(METADATA, 80, Metadata)
serve(HOST, 4567, AutoScaling)
threading.Thread(target=resolve_nothing, daemon=True).start()
emulator = subprocess.Popen(
    [sys.executable, "-c", f"from moto.server import main; main(['--host', '{HOST}', '--port', '4566'])"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
atexit.register(emulator.kill)
url = urllib.parse.urlsplit(database)
offer(5432, (url.hostname, url.port))
database = url._replace(netloc=f"{url.username}:{url.password}@{HOST}:5432").geturl()
keys = dict(region_name=REGION, endpoint_url=f"http://{HOST}:4566", aws_access_key_id="test",
            aws_secret_access_key="test")
ssm, secrets = boto3.client("ssm", **keys), boto3.client("secretsmanager", **keys)
until = time.monotonic() + LIMIT_S
while True:
    try:
        ssm.describe_parameters()
        break
    except BotoCoreError:
        if emulator.poll() is not None or time.monotonic() > until:
            sys.exit("the emulator does not answer")
        time.sleep(0.1)
secrets.create_secret(Name="bench/database", SecretString=json.dumps({"url": database}))
secrets.create_secret(Name="bench/webhook", SecretString="A" * 43 + "=")
settings = {
    "database/url": "secret:bench/database#url",
    "webhook/encryption_keys": "secret:bench/webhook",
    "server/linger_s": "1",
    # And as many more as an environment has, at their defaults or near them.
    "server/idle_timeout_s": "75", "server/header_timeout_s": "10", "server/body_idle_timeout_s": "30",
    "server/request_timeout_s": "30", "server/max_json_bytes": "1048576", "server/rate_limits/read": "6000",
    "server/trusted_proxies": "10.0.0.0/8", "database/max_connections": "20", "database/acquire_timeout_ms": "3000",
    "database/statement_timeout_ms": "10000", "worker/record_concurrency": "2", "worker/deliver_concurrency": "64",
    "worker/poll_ms": "1000", "worker/lease_s": "60", "worker/fanout_slice": "5000", "worker/daily_hour": "9",
    "webhook/connect_timeout_ms": "3000", "webhook/timeout_ms": "10000", "webhook/in_flight_per_channel": "4",
    "webhook/channels_per_account": "20", "files/reserve_bytes": "0", "instance/heartbeat_s": "15",
    "instance/poll_s": "2", "instance/ready_limit_s": "300", "instance/dead_man_s": "90", "log/level": "info",
    "log/access": "true",
}
for name, value in settings.items():
    ssm.put_parameter(Name=f"/salebell/{ENVIRONMENT}/{name}", Value=value, Type="SecureString")

work = tempfile.mkdtemp(prefix="salebell-bench-")
atexit.register(shutil.rmtree, work, ignore_errors=True)


def boot(image):
    """One instance, from its power on until its launch hook is completed; what systemd knows of it."""
    folder = tempfile.mkdtemp(dir=work)
    os.makedirs(f"{folder}/etc/systemd/system.conf.d")
    with open(f"{folder}/etc/systemd/system.conf.d/bench.conf", "w") as file:
        file.write(f"[Manager]\nDefaultEnvironment=AWS_ENDPOINT_URL=http://{HOST}:4566 "
                   f"AWS_ENDPOINT_URL_AUTO_SCALING=http://{HOST}:4567\n")
    AutoScaling.completed.clear()
    with open(f"{folder}/console", "w") as console:
        machine = subprocess.Popen(["scripts/lib/boot-instance.sh", folder, image, ADDRESS],
                                   stdin=subprocess.PIPE, stdout=console, stderr=console)
    try:
        if not AutoScaling.completed.wait(LIMIT_S):
            sys.exit(f"not in service after {LIMIT_S} s:\n" + open(f"{folder}/console").read())
        return look(folder)
    finally:
        machine.stdin.close()
        machine.wait()
        shutil.rmtree(folder, ignore_errors=True)


def look(folder):
    """What systemd knows of our units, in milliseconds from the start of the first one."""
    inside = ["nsenter", "--target", open(f"{folder}/init").read().strip(), "--all", "--"]
    shown = {}
    until = time.monotonic() + LIMIT_S
    while shown.get("ready", {}).get("ActiveState") != "active":
        if time.monotonic() > until:
            sys.exit("salebell-ready has not ended:\n" + open(f"{folder}/console").read())
        for unit in UNITS:
            asked = [*inside, "systemctl", "show", f"salebell-{unit}"]
            lines = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines()
            shown[unit] = dict(line.split("=", 1) for line in lines if "=" in line)

    def at(unit, moment):
        return int(shown[unit][f"{moment}TimestampMonotonic"]) / 1000

    begun = at("boot", "InactiveExit")
    times = {}
    for unit in UNITS:
        times[f"{unit} begins"] = at(unit, "InactiveExit") - begun
        times[f"{unit} is up"] = at(unit, "ActiveEnter") - begun
    for unit in UNITS:
        times[f"{unit}, processor"] = int(shown[unit]["CPUUsageNSec"]) / 1e6
    times["all, processor"] = sum(times[f"{unit}, processor"] for unit in UNITS)
    times["all"] = times["ready is up"]
    return times


def main():
    found = {image: [] for image in images}
    for at in range(rounds + 1):
        # In turns, and each first as often as the other.
        for image in images if at % 2 else reversed(images):
            times = boot(image)
            print(f"{at}: {image}: {times['all']:.0f} ms, processor {times['all, processor']:.0f} ms", file=sys.stderr)
            # The first ones find caches and the emulator cold.
            if at > 0:
                found[image].append(times)
    for image, all_times in found.items():
        every = sorted(times["all"] for times in all_times)
        print(f"{image}: {rounds} boots, {every[0]:.0f} to {every[-1]:.0f} ms")
    print(f"{'medians, in ms':24}" + (f"{'old':>8}{'new':>8}{'ratio':>8}" if len(images) == 2 else ""))
    for what in found[images[0]][0]:
        row = [statistics.median(times[what] for times in found[image]) for image in images]
        ratio = f"{row[1] / row[0]:8.2f}" if len(row) == 2 and row[0] > 0 else ""
        print(f"{what:24}" + "".join(f"{value:8.0f}" for value in row) + ratio)


main()
