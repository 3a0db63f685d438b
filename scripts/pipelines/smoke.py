"""Sends the requests of clients to the domain of an environment, by curl: pages, an invalid token, gRPC. With SALEBELL_KEY (an API
key for reports and watches) it also follows a sale from a reported price to the notice in the inbox; otherwise it creates nothing."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile
import time

from cloud import Refusal, outputs, run, say

TRIES, PAUSE_S, NOTICE_S = 5, 3, 60
TITLE, STORE = "Salebell smoke test", "Salebell smoke test"


class Client:
    """curl. Each request prints a line with its outcome."""

    def __init__(self, address, grpc, key):
        self.address, self.grpc, self.key, self.failed = address, grpc, key, 0

    def curl(self, *words, body=None, header=None):
        """The status, the headers and the body of an answer; status 0 and curl's own words where there is none."""
        with tempfile.TemporaryDirectory() as folder:
            answer, headers = pathlib.Path(folder, "body"), pathlib.Path(folder, "headers")
            command = ["curl", "--silent", "--show-error", "--max-time", "10", "--output", answer, "--dump-header", headers]
            if header:
                # Not on the command line, where every user of the machine could read it.
                command += ["--header", "@-"]
            ended = subprocess.run(
                [*command, "--write-out", "%{http_code}", *words], input=(header or "").encode(), capture_output=True, check=False
            )
            if ended.returncode != 0:
                return 0, "", ended.stderr.strip()
            read = (path.read_bytes() if path.exists() else b"" for path in (headers, answer))
            return int(ended.stdout), next(read).decode(errors="replace").lower(), next(read)

    def expect(self, what, good, *words):
        """A few tries: a balancer that has just got new targets may say 503 for a moment. Whether it is `good(status, headers, body)`."""
        say(f"$ curl -sS {shlex.join(words)}")
        for attempt in range(TRIES):
            if good(*(seen := self.curl(*words))):
                say(f"    {what}: {seen[0]}", "green")
                return True
            if attempt + 1 < TRIES:
                time.sleep(PAUSE_S)
        self.failed += 1
        say(f"    {what}: NOT SO, but {seen[0]} {seen[2][:300].decode(errors='replace')}", "red")
        return False

    def ask(self, path, body=None, method=None):
        """An answer of the API, as the key's owner."""
        words = ["--header", "content-type: application/json", "--data-binary", json.dumps(body)] if body is not None else []
        words += ["--request", method] if method else []
        status, _, text = self.curl(*words, self.address + path, header=f"authorization: Bearer {self.key}\n")
        if not 200 <= status < 300:
            raise Refusal(f"{method or ('POST' if body else 'GET')} {path}: {status} {text[:300].decode(errors='replace')}")
        return json.loads(text) if text else None


def requests(client):
    """Requests that need no token."""
    client.expect("anybody sees deals", lambda status, _, body: status == 200 and b'"items"' in body, f"{client.address}/v1/deals?limit=1")
    client.expect("watches want a key", lambda status, _, body: status == 401 and b"/problems/" in body, f"{client.address}/v1/watches")
    if client.address.startswith("https://"):
        plain = client.address.replace("https://", "http://")
        client.expect("plain HTTP is sent on", lambda status, headers, _: status == 301 and "location: https://" in headers, plain)
    with tempfile.NamedTemporaryFile() as frame:
        # An empty HealthCheckRequest. The answer is a frame with status 1, SERVING.
        frame.write(bytes(5))
        frame.flush()
        version = "--http2" if client.grpc.startswith("https://") else "--http2-prior-knowledge"
        words = [version, "--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", f"@{frame.name}"]
        healthy = bytes([0, 0, 0, 0, 2, 8, 1])
        client.expect("gRPC is healthy", lambda status, _, body: status == 200 and body == healthy, *words,
                      f"{client.grpc}/grpc.health.v1.Health/Check")  # fmt: skip


def ring(client):
    """A sale, from the reported price to the notice: of an offer of its own, so that each run is a first one."""
    sku = f"smoke-{time.time_ns()}"
    offer = {"store": STORE, "sku": sku, "title": TITLE, "currency": "EUR", "regular_price": "10.00"}
    client.ask("/v1/prices", {"observations": [{**offer, "price": "10.00"}]})
    game = wait("the game is there", lambda: next(
        (one["id"] for one in client.ask("/v1/games?q=salebell+smoke+test&limit=5")["items"] if one["title"] == TITLE), None))  # fmt: skip
    wait("its offer is there", lambda: any(one.get("sku") == sku for one in client.ask(f"/v1/games/{game}/offers")["items"]))
    watch = client.ask("/v1/watches", {"game_id": game, "rule": {"any_sale": {}}})["id"]
    try:
        client.ask("/v1/prices", {"observations": [{**offer, "price": "4.00"}]})
        notice = wait("the bell rings", lambda: next(
            (one["id"] for one in client.ask("/v1/notices?unread=true")["items"] if one["watch_id"] == watch), None))  # fmt: skip
        client.ask(f"/v1/notices/{notice}", {"read": True}, "PATCH")
    finally:
        client.ask(f"/v1/watches/{watch}", method="DELETE")


def wait(what, look):
    begun = time.monotonic()
    while time.monotonic() - begun < NOTICE_S:
        if found := look():
            say(f"    {what}: after {time.monotonic() - begun:.1f} s", "green")
            return found
        time.sleep(0.3)
    raise Refusal(f"{what}: not within {NOTICE_S} s")


def main(account, options):
    if not shutil.which("curl"):
        raise Refusal("there is no curl on this machine")
    name = None if options.url else outputs(account.stack(account.prefix + "edge")).get("DomainName")
    if not options.url and not name:
        raise Refusal(f"{account.environment} has no name yet: make deploy ENV={account.environment} STACK=edge")
    address = options.url or f"https://{name}"
    client = Client(address, options.grpc or options.url or f"https://{name}:9000", os.environ.get("SALEBELL_KEY", ""))
    account.introduce(f"asks {address} what clients ask" + ", and rings a bell" * bool(client.key))
    requests(client)
    if client.key:
        ring(client)
    say(f"{client.failed} of these failed" if client.failed else "all is as clients expect", "red" if client.failed else "green")
    return bool(client.failed)


if __name__ == "__main__":
    url, grpc = {"default": "", "help": "address to use instead of that of the environment"}, {"default": "", "help": "the same for gRPC"}
    run(main, __doc__, url=url, grpc=grpc)
