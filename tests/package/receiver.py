"""A receiver of webhooks that counts, and holds each signature against the channel's secret (Standard Webhooks)."""

import base64
import collections
import hashlib
import hmac
import http.server
import json
import threading
import time


class Receiver:
    def __init__(self, address):
        self.lock = threading.Lock()
        # By path: the secret of its channel, and what it does before it answers.
        self.secrets, self.pause, self.refuses = {}, 0.0, False
        # By path: the notices that were answered with 204, and how often; what was refused.
        self.taken = collections.defaultdict(collections.Counter)
        self.refused = collections.Counter()
        self.forged = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.receive(self.path, self.headers, body)
                self.send_response(status)
                if status == 503:
                    self.send_header("Retry-After", "25")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def receive(self, path, headers, body):
        key = base64.b64decode(self.secrets[path].removeprefix("whsec_"))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        signature = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        notice = json.loads(body)["data"]["notice_id"]
        time.sleep(self.pause)
        with self.lock:
            if signature not in headers["webhook-signature"].split():
                self.forged.append(path)
                return 400
            if path == "/later" and self.refuses:
                self.refused[notice] += 1
                return 503
            self.taken[path][notice] += 1
            return 204

    def count(self, path):
        with self.lock:
            return len(self.taken[path])

    def twice(self):
        with self.lock:
            return {notice: count for counts in self.taken.values() for notice, count in counts.items() if count > 1}
