"""Starts `salebell api` again and again: time until it is ready, memory when idle. See idle.sh."""

import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

binary, database, starts = sys.argv[1], sys.argv[2], int(sys.argv[3])
LIMIT_MS, LIMIT_MIB = 200, 40


def start():
    """The process, its port, and the milliseconds until it was ready."""
    environment = {
        "SALEBELL_DATABASE__URL": database,
        "SALEBELL_SERVER__LISTEN": "127.0.0.1:0",
        "SALEBELL_SERVER__GRPC_LISTEN": "127.0.0.1:0",
        "SALEBELL_SERVER__METRICS_LISTEN": "127.0.0.1:0",
        "SALEBELL_SERVER__LINGER_S": "0",
        "SALEBELL_SERVER__RATE_LIMITS__READ": "0",
        "SALEBELL_LOG__TO": "stderr",
        "PATH": os.environ["PATH"],
    }
    begin = time.monotonic()
    log = tempfile.NamedTemporaryFile(mode="r", prefix="salebell-idle-")
    with open(log.name, "w") as writer:
        process = subprocess.Popen([binary, "api"], env=environment, stderr=writer)
    while not (found := re.search(r"listening on http://[^ ]*:(\d+)\n", open(log.name).read())):
        if process.poll() is not None:
            sys.exit("it did not start:\n" + log.read())
        time.sleep(0.001)
    port = int(found[1])
    while ask(port, "/readyz") != 200:
        if time.monotonic() - begin > 30:
            sys.exit("it is not ready after 30 s")
        time.sleep(0.001)
    return process, port, (time.monotonic() - begin) * 1000


def ask(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def resident_mib(process):
    with open(f"/proc/{process.pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


times = []
for _ in range(starts):
    process, port, milliseconds = start()
    times.append(milliseconds)
    if len(times) == starts:
        break
    process.terminate()
    process.wait()

time.sleep(5)
idle = resident_mib(process)
for _ in range(2000):
    ask(port, "/v1/games")
time.sleep(1)
used = resident_mib(process)
process.terminate()
process.wait()

ready = statistics.median(times)
verdict = lambda held: "held" if held else "MISSED"
print(f"starts {starts}: ready after {min(times):.0f} to {max(times):.0f} ms")
print(f"after 2,000 requests on as many connections: {used:.1f} MiB")
print(f"start to ready: median {ready:.0f} ms, limit {LIMIT_MS} ms: {verdict(ready < LIMIT_MS)}")
print(f"idle memory: {idle:.1f} MiB, limit {LIMIT_MIB} MiB: {verdict(idle < LIMIT_MIB)}")
