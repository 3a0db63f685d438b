"""An instance's start again and again, on emulated AWS. See boot.sh."""

import atexit
import http.client
import http.server
import json
import os
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import boto3

binary, database, starts = sys.argv[1], sys.argv[2], int(sys.argv[3])
LIMIT_MS, LIMIT_MIB, LIMIT_MB = 400, 48, 40
REGION, ENVIRONMENT = "eu-central-1", "bench"
IDENTITY = {"region": REGION, "instanceId": "i-1", "availabilityZone": f"{REGION}a", "accountId": "123456789012"}
ROLE = {
    "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIABENCH", "SecretAccessKey": "bench", "Token": "bench",
    "Expiration": "2099-01-01T00:00:00Z", "LastUpdated": "2020-01-01T00:00:00Z",
}
METADATA = {
    "dynamic/instance-identity/document": json.dumps(IDENTITY),
    "meta-data/instance-id": "i-1",
    "meta-data/placement/region": REGION,
    "meta-data/placement/availability-zone": f"{REGION}a",
    "meta-data/tags/instance/Environment": ENVIRONMENT,
    "meta-data/iam/security-credentials/": "bench",
    "meta-data/iam/security-credentials": "bench",
    "meta-data/iam/security-credentials/bench": json.dumps(ROLE),
}


class Metadata(http.server.BaseHTTPRequestHandler):
    """IMDSv2 with what a boot asks for: nothing without a token."""

    protocol_version = "HTTP/1.1"

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("x-aws-ec2-metadata-token-ttl-seconds", "21600")
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        self.answer(200, "token")

    def do_GET(self):
        if self.headers.get("x-aws-ec2-metadata-token") != "token":
            return self.answer(401, "")
        path = self.path.removeprefix("/latest/").removeprefix("/")
        self.answer(200, METADATA[path]) if path in METADATA else self.answer(404, "")

    def log_message(self, *_):
        pass


metadata = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
threading.Thread(target=metadata.serve_forever, daemon=True).start()

# A process of its own: an emulator in this one would share its interpreter.
emulator_log = tempfile.NamedTemporaryFile(mode="r", prefix="salebell-boot-")
with open(emulator_log.name, "w") as writer:
    emulator = subprocess.Popen(
        [sys.executable, "-c", "from moto.server import main; main(['--host', '127.0.0.1', '--port', '0'])"],
        stdout=writer, stderr=writer,
    )
atexit.register(emulator.kill)
while not (found := re.search(r"http://127.0.0.1:\d+", open(emulator_log.name).read())):
    if emulator.poll() is not None:
        sys.exit("the emulator did not start:\n" + emulator_log.read())
    time.sleep(0.05)
endpoint = found[0]
keys = dict(region_name=REGION, endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test")
ssm, secrets = boto3.client("ssm", **keys), boto3.client("secretsmanager", **keys)
sns, sqs = boto3.client("sns", **keys), boto3.client("sqs", **keys)
boto3.client("s3", **keys).create_bucket(
    Bucket="bench-files", CreateBucketConfiguration={"LocationConstraint": REGION}
)
encryption = "A" * 43 + "="
secrets.create_secret(Name="bench/database", SecretString=json.dumps({"url": database}))
secrets.create_secret(Name="bench/webhook", SecretString=encryption)
settings = {
    "database/url": "secret:bench/database#url",
    "webhook/encryption_keys": "secret:bench/webhook",
    "server/listen": "127.0.0.1:0",
    "server/grpc_listen": "127.0.0.1:0",
    "server/metrics_listen": "127.0.0.1:0",
    "server/linger_s": "0",
    "server/tls": "minted",
    "log/to": "stderr",
    "files/store": "s3",
    "files/s3_bucket": "bench-files",
    "files/s3_region": REGION,
    "files/s3_endpoint": endpoint,
    "bus/kind": "aws",
    "bus/prices_topic": sns.create_topic(Name="prices")["TopicArn"],
    "bus/prices_queue": sqs.create_queue(QueueName="prices")["QueueUrl"],
    "bus/prices_dead_queue": sqs.create_queue(QueueName="prices-dead")["QueueUrl"],
    "bus/endpoint": endpoint,
}
# Those of a fleet have pages of them.
unknown = {f"later/setting_{at}": str(at) for at in range(40 - len(settings))}
for name, value in (settings | unknown).items():
    ssm.put_parameter(Name=f"/salebell/{ENVIRONMENT}/{name}", Value=value, Type="SecureString")

aws = {
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{metadata.server_port}",
    "AWS_ENDPOINT_URL": endpoint,
    "PATH": os.environ["PATH"],
}
unverified = ssl._create_unverified_context()


def ask(port, path):
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=unverified)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def start(run):
    """The process, its port, and the milliseconds of the boot and until it was ready."""
    begin = time.monotonic()
    subprocess.run([binary, "boot", "--directory", run], env=aws, check=True, stdout=subprocess.DEVNULL)
    booted = time.monotonic()
    log = tempfile.NamedTemporaryFile(mode="r", prefix="salebell-boot-")
    with open(log.name, "w") as writer:
        process = subprocess.Popen([binary, "api"], env=aws | {"CREDENTIALS_DIRECTORY": run}, stderr=writer)
    atexit.register(process.kill)
    while not (found := re.search(r"listening on https://[^ ]*:(\d+)\n", open(log.name).read())):
        if process.poll() is not None or time.monotonic() - begin > 30:
            sys.exit("it did not start:\n" + log.read())
        time.sleep(0.001)
    port = int(found[1])
    while ask(port, "/readyz") != 200:
        if time.monotonic() - begin > 30:
            sys.exit("it is not ready after 30 s:\n" + log.read())
        time.sleep(0.001)
    return process, port, (booted - begin) * 1000, (time.monotonic() - begin) * 1000


def resident_mib(process):
    with open(f"/proc/{process.pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def emulator_ms():
    """What the emulator takes for what a boot asks it."""
    begin = time.monotonic()
    read = 0
    for page in ssm.get_paginator("get_parameters_by_path").paginate(
        Path=f"/salebell/{ENVIRONMENT}", Recursive=True, WithDecryption=True
    ):
        read += len(page["Parameters"])
    assert read == len(settings | unknown), f"{read} parameters"
    for name in ("bench/database", "bench/webhook"):
        secrets.get_secret_value(SecretId=name)
    return (time.monotonic() - begin) * 1000


boots, readies, emulated = [], [], []
with tempfile.TemporaryDirectory(prefix="salebell-run-") as run:
    for at in range(starts + 1):
        process, port, boot, ready = start(run)
        # The first one finds the emulator cold.
        if at > 0:
            boots.append(boot)
            readies.append(ready)
            emulated.append(emulator_ms())
        if at < starts:
            process.terminate()
            process.wait()
    time.sleep(5)
    idle = resident_mib(process)
    process.terminate()
    process.wait()

megabytes = os.path.getsize(binary) / 1e6
ready = statistics.median(readies)
verdict = lambda held: "held" if held else "MISSED"
print(f"starts {starts}: ready after {min(readies):.0f} to {max(readies):.0f} ms")
print(f"of which the boot {statistics.median(boots):.0f} ms; the emulator takes {statistics.median(emulated):.0f} ms "
      "for the same questions of another client")
print(f"start to ready: median {ready:.0f} ms, limit {LIMIT_MS} ms: {verdict(ready < LIMIT_MS)}")
print(f"idle memory: {idle:.1f} MiB, limit {LIMIT_MIB} MiB: {verdict(idle < LIMIT_MIB)}")
print(f"stripped binary: {megabytes:.1f} MB, limit {LIMIT_MB} MB: {verdict(megabytes < LIMIT_MB)}")
