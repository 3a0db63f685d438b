"""Reports sales one after another and waits for each one's webhook. Prints the quantiles."""

import http.server
import json
import statistics
import sys
import threading
import time
import urllib.request

url, token, sales = sys.argv[1], sys.argv[2], int(sys.argv[3])
arrived = threading.Event()


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        Receiver.at = time.perf_counter()
        self.send_response(204)
        self.end_headers()
        arrived.set()

    def log_message(self, *_):
        pass


def call(method, path, body=None):
    request = urllib.request.Request(url + path, method=method, data=body and json.dumps(body).encode())
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def report(price, number):
    seen = {"store": "bench", "sku": "1", "title": "Bench", "price": price, "regular_price": "20.00", "currency": "EUR",
            "observed_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_700_000_000 + number)) + "Z"}
    return call("POST", "/v1/prices", {"observations": [seen]})["batch_id"]


def recorded(batch):
    while not call("GET", f"/v1/batches/{batch}")["done"]:
        time.sleep(0.01)


receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()
recorded(report("20.00", 0))
game = call("GET", "/v1/games")["items"][0]["id"]
call("POST", "/v1/channels", {"kind": "webhook", "name": "bench", "url": f"http://127.0.0.1:{receiver.server_port}/"})
call("POST", "/v1/watches", {"game_id": game, "rule": {"any_sale": {}}})

milliseconds = []
for number in range(sales):
    arrived.clear()
    began = time.perf_counter()
    report("10.00", 2 * number + 1)
    if not arrived.wait(30):
        sys.exit(f"sale {number} did not arrive within 30 s")
    milliseconds.append((Receiver.at - began) * 1000)
    recorded(report("20.00", 2 * number + 2))
    time.sleep(0.05)
quantiles = statistics.quantiles(milliseconds, n=100)
median = statistics.median(milliseconds)
print(f"latency: median {median:.1f} ms, p95 {quantiles[94]:.1f} ms, p99 {quantiles[98]:.1f} ms, "
      f"limit 100 ms: {'held' if median < 100 else 'MISSED'}")
