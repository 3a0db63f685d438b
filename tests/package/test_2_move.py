"""The checklist of docs/guides/other-hosts.md, walked on two booted machines by the page's own commands: nothing is lost,
and no bell rings twice, while shops go on reporting for as long as somebody listens."""

import hashlib
import os
import threading
import time

import page
import pytest
from client import Client
from machine import wait
from receiver import Receiver

GAMES = 80
# Reported before the move begins.
AT_ONCE = 50
KEY = "runuser -u salebell -- salebell --config /etc/salebell/config.toml key create"


class Everything:
    """What is at the old place, as its callers see it, and what must be at the new one."""

    def __init__(self, old):
        self.receiver = Receiver("10.77.0.1")
        self.shop = Client(old.address, old.run(f"{KEY} --subject shop --scope prices:write --scope catalogue:write").strip())
        self.anna, self.ben = (Client(old.address, old.run(f"{KEY} --subject {name}").strip()) for name in ("anna", "ben"))
        self.reported, self.cut = set(), None
        self.shop.post("/v1/stores", {"name": "move"})
        # At the regular price nobody is rung.
        self.shop.post("/v1/prices", {"observations": [self.price(number, "20.00") for number in range(GAMES)]})
        wait("the games are there", lambda: len(self.anna.items("/v1/offers?store=move")) == GAMES)
        for client, path in ((self.anna, "/anna"), (self.ben, "/later")):
            channel = client.post("/v1/channels", {"kind": "webhook", "name": path[1:], "url": self.receiver.url + path})
            self.receiver.secrets[path] = channel["secret"]
            for offer in client.items("/v1/offers?store=move"):
                client.post("/v1/watches", {"game_id": offer["game_id"], "rule": {"any_sale": {}}})
        self.content = os.urandom(3_000_000)
        _, headers, _ = self.anna.ask("POST", "/v1/files?name=whole", self.content)
        self.file = headers["Location"].removeprefix(self.anna.base)
        self.link = self.anna.post(f"{self.file}/links", {"max_downloads": 3})["path"]
        self.tus = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
        _, headers, _ = self.anna.ask("POST", "/v1/files", b"", {**self.tus, "Upload-Length": str(len(self.content))})
        self.upload = headers["Location"].removeprefix(self.anna.base)
        assert self.anna.ask("PATCH", self.upload, self.content[:1_000_000], {**self.tus, "Upload-Offset": "0"})[0] == 204

    def price(self, number, amount):
        return {
            "store": "move", "sku": f"game-{number}", "title": f"Moving {number:03}", "price": amount, "regular_price": "20.00",
            "currency": "EUR",
        }  # fmt: skip

    def report(self, number):
        """Whether the sale of a game was taken."""
        try:
            status, _, _ = self.shop.ask("POST", "/v1/prices", {"observations": [self.price(number, "10.00")]}, seconds=10)
        except OSError:
            return False
        if status == 202:
            self.reported.add(number)
        return status == 202

    def lists(self):
        """What each caller has. Deliveries and notices go on."""
        return {
            (name, path): sorted(str(item) for item in client.items(path))
            for name, client in (("anna", self.anna), ("ben", self.ben))
            for path in ("/v1/watches", "/v1/channels", "/v1/files", "/v1/stores")
        }

    def at(self, machine):
        for client in (self.shop, self.anna, self.ben):
            client.at(machine.address)


@pytest.fixture(scope="module")
def everything(old):
    return Everything(old)


def prepare(old, new):
    """What the page takes for granted: the package's file, and a PostgreSQL."""
    package = old.run("ls /root/salebell_*.deb").strip()
    new.run("mkdir -p /srv/packages; pg_createcluster 17 main --start -- --no-sync")
    old.run(f"install -d -m 0700 /srv/packages; ln -f {package} /srv/packages/")
    old.carry("/srv/packages", new)
    new.run("ln /srv/packages/salebell_*.deb /root/")


def test_the_checklist_loses_nothing_and_rings_nobody_twice(old, new, everything):
    steps = page.steps("The checklist")
    assert [where for where, _ in steps] == ["new", "old", "old", "new", "new", "old"], "the checklist has other steps now"
    prepare(old, new)
    new.run(steps[0][1])
    for service in ("salebell-api", "salebell-worker"):
        assert new.is_active(service) == "inactive"

    # A channel that takes nothing until all is over, and one that needs its time: many wait, and some are being sent, when
    # the worker is told to stop. One that goes on beside the dump sends what is in the dump.
    receiver = everything.receiver
    receiver.refuses, receiver.pause = True, 1.5
    before = everything.lists()
    everything.shop.post("/v1/prices", {"observations": [everything.price(number, "10.00") for number in range(AT_ONCE)]})
    everything.reported.update(range(AT_ONCE))
    wait("ben's are refused", lambda: len(receiver.refused) > 0)

    # Shops report on, until nobody listens.
    rest = iter(range(AT_ONCE, GAMES))

    def report_on():
        for number in rest:
            if not everything.report(number):
                everything.cut = number
                return
            time.sleep(0.7)

    shops = threading.Thread(target=report_on)
    shops.start()
    wait("anna's bells ring", lambda: receiver.count("/anna") > 3)
    old.run(steps[1][1])
    shops.join()
    at_old = receiver.count("/anna")
    old.run(steps[2][1])
    # What had been taken but not recorded by then: it has to be on the way.
    waited = old.run("runuser -u postgres -- psql -Atc 'select count(*) from bus_messages' salebell").strip()
    old.carry("/srv/move", new)
    new.run(steps[3][1])
    receiver.refuses, receiver.pause = False, 0
    new.run(steps[4][1])
    everything.at(new)
    print(f"{at_old} rang before, {len(everything.reported)} were reported, {waited} parts waited on the bus")

    # What was cut off is reported again, as a shop does, and the others for the first time.
    assert everything.cut, "the shops were done before the move was: nothing was shown"
    for number in [everything.cut, *rest]:
        assert everything.report(number), "the new place takes no reports"
    wait("all of anna's bells have rung", lambda: receiver.count("/anna") == GAMES)
    wait("all of ben's, that were refused too", lambda: receiver.count("/later") == GAMES, 90)
    wait("nothing waits", lambda: not pending(new))
    assert len(everything.reported) == GAMES
    assert receiver.twice() == {}
    # The secrets of channels opened: each signature was that of the secret that its owner was told at the old place.
    assert receiver.forged == []
    assert at_old < GAMES, "all had rung before the move: nothing was shown"
    assert everything.lists() == before


def pending(machine):
    return int(
        machine.run("runuser -u postgres -- psql -Atc \"select count(*) from deliveries where state = 'pending'\" salebell").split()[-1]
    )


def test_files_are_there_and_uploads_go_on(everything):
    status, _, content = everything.anna.ask("GET", f"{everything.file}/content")
    assert status == 200 and content == everything.content
    assert everything.anna.get(everything.file)["sha256"] == hashlib.sha256(content).hexdigest()
    status, _, shared = Client.ask(everything.anna, "GET", everything.link)
    assert status == 200 and shared == content
    status, headers, _ = everything.anna.ask("HEAD", everything.upload, headers=everything.tus)
    assert (status, headers["Upload-Offset"]) == (200, "1000000")
    rest = {**everything.tus, "Upload-Offset": "1000000"}
    assert everything.anna.ask("PATCH", everything.upload, everything.content[1_000_000:], rest)[0] == 204
    assert everything.anna.get(everything.upload)["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_old_machine_stays_down_and_a_purge_says_what_stays(old):
    for service in ("salebell-api", "salebell-worker"):
        assert old.is_active(service) == "inactive"
        assert old.try_run(f"systemctl is-enabled {service}").stdout.strip() == "disabled"
    said = old.run(page.steps("The checklist")[-1][1])
    assert "/var/lib/salebell, the user salebell and the database stay" in said, said
    old.run("test ! -e /etc/salebell; test -d /var/lib/salebell/files; test ! -e /srv/move; id salebell")
    assert int(old.run("runuser -u postgres -- psql -Atc 'select count(*) from watches' salebell")) == 2 * GAMES
    assert old.try_run("find /etc/systemd/system -name '*salebell*' | grep .").returncode != 0
