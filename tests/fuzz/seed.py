"""Gives an account one thing of each kind, so that every list of the API has an item and every id can be tried.

seed.py URL TOKEN NAME GAME PRICE: `GAME` is a game of the sample feed, `PRICE` one at which it is on sale.
"""

import json
import sys
import time
import urllib.request

url, token, name, wanted, price = sys.argv[1:]


def call(method, path, body=None, media_type="application/json"):
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": media_type}
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method)) as answer:
        return json.load(answer)


def until(what, path, holds):
    deadline = time.monotonic() + 60
    while not holds(answer := call("GET", path)):
        if time.monotonic() > deadline:
            sys.exit(f"never: {what}")
        time.sleep(0.05)
    return answer


game = call("GET", f"/v1/games?q={wanted}&limit=1")["items"][0]
# A name that never resolves: nothing leaves this machine.
channel = {"kind": "webhook", "name": name, "url": "https://receiver.invalid/"}
channel = call("POST", "/v1/channels", channel)
call("POST", "/v1/watches", {"game_id": game["id"], "rule": {"any_sale": {}}})

offer = {"store": "Pixel Harbor", "sku": f"ph-{wanted}", "currency": "EUR"}
report = call("POST", "/v1/prices", {"observations": [offer | {"price": price}]})
until("the report is recorded", f"/v1/batches/{report['batch_id']}", lambda batch: batch["done"])
until("the notice", "/v1/notices", lambda notices: notices["items"])
until("the delivery", f"/v1/channels/{channel['id']}/deliveries", lambda deliveries: deliveries["items"])
# A price that looks like a glitch.
report = call("POST", "/v1/prices", {"observations": [offer | {"price": "0.01"}]})
until("the glitch is recorded", f"/v1/batches/{report['batch_id']}", lambda batch: batch["done"])

call("POST", "/v1/keys", {"name": name})
rows = f"store,sku,price,currency\nPixel Harbor,ph-{wanted},{price},EUR\n,,,\n".encode()
stored = call("PUT", f"/v1/files/{name}.csv", rows, "text/csv")
call("POST", f"/v1/files/{stored['id']}/links", {})
call("POST", "/v1/exports", {"kind": "deals", "format": "csv"})
made = call("POST", "/v1/imports", {"file_id": stored["id"]})
until("the import is done", f"/v1/imports/{made['id']}", lambda one: one["state"] == "done")
