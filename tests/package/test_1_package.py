"""The Debian package on a booted machine of Debian 13, from its installation on. The order counts: each test goes on where
the one before has ended."""

import hashlib
import http.client
import re
import subprocess
import threading
import time

import page
import pytest
from client import Client
from machine import wait

BEFORE = "0.0.1~test"
SERVICES = ("salebell-api", "salebell-worker")


def with_number(package, number, folder):
    """The same package under another version."""
    subprocess.run(["dpkg-deb", "--raw-extract", package, folder / "files"], check=True)
    control = folder / "files/DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", f"Version: {number}", control.read_text(), flags=re.MULTILINE))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", folder / "files", folder / "before.deb"], check=True, capture_output=True)
    return folder / "before.deb"


def version(machine):
    return machine.run("dpkg-query --show --showformat='${Version}' salebell").strip()


def process(machine, service):
    return machine.run(f"systemctl show --property MainPID --value {service}").strip()


@pytest.fixture(scope="module")
def lintian(old, package):
    """Lintian at work, beside the other tests: it takes its time with a large binary."""
    old.put(package, "/root/checked.deb")
    command = "lintian --allow-root --fail-on error,warning --tag-display-limit 0 checked.deb"
    return subprocess.Popen(old.inside(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_installed_it_starts_nothing(old, package, lintian, tmp_path):
    old.put(with_number(package, BEFORE, tmp_path), "/root/salebell_before.deb")
    install, setup = page.steps("A managed machine")[0][1].split("\n", 1)
    assert install.startswith("apt-get install")
    old.run("pg_createcluster 17 main --start -- --no-sync")
    old.run(install)
    assert version(old) == BEFORE
    for service in SERVICES:
        assert old.is_active(service) == "inactive"
        assert old.try_run(f"systemctl is-enabled {service}").stdout.strip() == "disabled"
    assert old.run("stat --format '%a %U:%G' /etc/salebell/config.toml").strip() == "640 root:salebell"
    # As on instances: files that are moved are its.
    assert old.run("id -u salebell").strip() == "650"
    old.run("man --where salebell && zcat /usr/share/doc/salebell/settings.md.gz | grep -q '^# Settings'")


def test_without_settings_it_says_what_is_missing(old):
    old.run("systemctl start --no-block salebell-api")
    wait("it says so", lambda: "database.url (SALEBELL_DATABASE__URL) is required" in old.journal())
    assert old.is_active("salebell-api") != "active"
    old.run("systemctl stop salebell-api; systemctl reset-failed salebell-api || true")


def test_its_units_are_understood_and_as_closed_as_the_appliance_s(old):
    units = " ".join(f"{service}.service" for service in SERVICES)
    assert old.run(f"systemd-analyze verify --man=no {units}") == ""
    for service in SERVICES:
        old.run(f"systemd-analyze security --no-pager --threshold=15 {service}.service >/dev/null")


def test_set_up_as_the_page_says_it_serves(old):
    old.run(page.steps("A managed machine")[0][1].split("\n", 1)[1])
    # From outside, and to the receiver of the tests.
    old.run(
        "printf '%s\\n' 'allow_http = true' 'allow_networks = [\"10.77.0.0/24\"]' '[server]' 'listen = \"0.0.0.0:8080\"' "
        ">>/etc/salebell/config.toml; systemctl restart salebell-api salebell-worker"
    )
    for service in SERVICES:
        assert old.is_active(service) == "active"
    anybody = Client(old.address, None)
    assert anybody.ask("GET", "/healthz")[0] == 200
    wait("it is ready", lambda: anybody.ask("GET", "/readyz")[0] == 200)


def test_an_upgrade_loses_nothing_that_is_in_flight(old, package):
    key = "runuser -u salebell -- salebell --config /etc/salebell/config.toml key create --subject upgrade"
    client = Client(old.address, old.run(f"{key} --scope prices:write --scope catalogue:write").strip())
    before = {service: process(old, service) for service in SERVICES}
    old.put(package, "/root/salebell_after.deb")
    content = bytes(range(256)) * 4000
    tus = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    status, headers, _ = client.ask("POST", "/v1/files", b"", {**tus, "Upload-Length": str(len(content))})
    assert status == 201, status
    place = headers["Location"].removeprefix(client.base)
    begun, draining, refused, over = threading.Barrier(3, timeout=60), threading.Event(), [], threading.Event()
    answers = {}

    def slowly(whole):
        """A body of which most is there at once, and the end when the service has been told to stop."""
        yield whole[: len(whole) // 2]
        begun.wait()
        for at in range(len(whole) // 2, len(whole) - 1):
            if draining.wait(0.5) or at > len(whole) // 2 + 100:
                yield whole[at:]
                return
            yield whole[at : at + 1]

    def send(name, method, path, body, headers):
        connection = http.client.HTTPConnection(old.address, 8080, timeout=60)
        headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json", **headers}
        try:
            connection.request(method, path, slowly(body), headers, encode_chunked=True)
            answer = connection.getresponse()
            answers[name] = (answer.status, answer.read())
        except OSError as error:
            answers[name] = (0, error)

    def look():
        while not over.is_set():
            if not reachable(client):
                refused.append(time.monotonic())
                draining.set()
            time.sleep(0.02)

    report = b'{"observations": [{"store": "slow", "sku": "1", "title": "Slow", "price": "9.99", "currency": "EUR"}]}'
    threads = [
        threading.Thread(target=send, args=("report", "POST", "/v1/prices", report, {})),
        threading.Thread(target=send, args=("upload", "PATCH", place, content, {**tus, "Upload-Offset": "0"})),
        threading.Thread(target=look),
    ]
    for thread in threads:
        thread.start()
    begun.wait()
    said = old.run("rm salebell_before.deb; apt-get install --yes ./salebell_after.deb")
    wait("it is ready again", lambda: reachable(client) and client.ask("GET", "/readyz")[0] == 200)
    over.set()
    for thread in threads:
        thread.join()
    print(f"for {refused[-1] - refused[0]:.2f} s nobody listened" if refused else "somebody listened all the time")
    assert answers["report"][0] == 202, f"{answers}\n{said}"
    # An upload is not waited for: what has arrived is kept, and its client goes on.
    status, headers, _ = client.ask("HEAD", place, headers=tus)
    offset = int(headers["Upload-Offset"])
    assert status == 200 and offset >= len(content) // 2, f"{offset} {answers}"
    if offset < len(content):
        assert client.ask("PATCH", place, content[offset:], {**tus, "Upload-Offset": str(offset)})[0] == 204
    [file] = client.items("/v1/files")
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert version(old) != BEFORE
    for service in SERVICES:
        assert process(old, service) not in ("0", before[service]), f"{service} was not begun anew\n{said}"


def reachable(client):
    try:
        return client.ask("GET", "/healthz", seconds=2)[0] == 200
    except OSError:
        return False


def test_an_upgrade_that_cannot_migrate_leaves_the_services_alone(old):
    before = {service: process(old, service) for service in SERVICES}
    old.run("sed -i 's/^url/uri/' /etc/salebell/config.toml")
    failed = old.try_run("apt-get install --yes --reinstall ./salebell_after.deb")
    assert failed.returncode != 0 and "dpkg --configure salebell" in failed.stderr + failed.stdout
    assert {service: process(old, service) for service in SERVICES} == before
    old.run("sed -i 's/^uri/url/' /etc/salebell/config.toml; dpkg --configure salebell")
    assert {service: process(old, service) for service in SERVICES} != before


def test_removed_it_keeps_settings_and_files(old):
    kept = "cat /etc/salebell/config.toml; find /var/lib/salebell/files -type f | sort; ls -l /etc/systemd/system/multi-user.target.wants"
    before = old.run(kept)
    assert "salebell-api" in before and "/var/lib/salebell/files/" in before
    old.run("apt-get remove --yes salebell")
    for service in SERVICES:
        assert old.is_active(service) == "inactive"
    assert old.try_run("test -e /usr/bin/salebell").returncode != 0
    assert old.run(kept) == before
    # It goes on as if nothing had been.
    old.run("apt-get install --yes ./salebell_after.deb; systemctl start salebell-api salebell-worker")
    client = Client(old.address, None)
    wait("it is ready", lambda: reachable(client) and client.ask("GET", "/readyz")[0] == 200)


def test_lintian_has_nothing_to_say(lintian):
    said, _ = lintian.communicate(timeout=180)
    assert lintian.returncode == 0 and not re.search(r"^[EW]: ", said, re.MULTILINE), said
