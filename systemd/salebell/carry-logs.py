"""Carries the journal into files that the CloudWatch agent reads: access.log, application.log and system.log, a JSON object
a line, and metrics.log, whose lines are in CloudWatch's embedded metric format and nothing else.

A file that has reached its size becomes NAME.log.1, in the place of the one before. Where we are in the journal is in
`cursor`: a restart goes on there. One that was killed between a line and its cursor tells this line twice."""

import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid

FOLDER = os.environ["LOGS_DIRECTORY"]
MAX_BYTES = int(os.environ.get("SALEBELL_LOGS_MAX_BYTES", 32 * 1024 * 1024))
# Fields that an entry has besides its own.
OF_THE_JOURNAL = {"MESSAGE", "PRIORITY", "CODE_FILE", "CODE_LINE", "CODE_FUNC", "CODE_MODULE"}
LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")


class Log:
    def __init__(self, name):
        self.path = f"{FOLDER}/{name}.log"
        self.open()
        # Of a line that a full disk has cut off, what follows is another one.
        if self.size and os.pread(self.file, 1, self.size - 1) != b"\n":
            self.write("")

    def open(self):
        self.file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.size = os.fstat(self.file).st_size

    def write(self, line):
        data = line.encode() + b"\n"
        if self.size and self.size + len(data) > MAX_BYTES:
            os.close(self.file)
            os.replace(self.path, self.path + ".1")
            self.open()
        if os.write(self.file, data) != len(data):
            sys.exit("the disk is full")
        self.size += len(data)


class Cursor:
    def __init__(self):
        self.file = os.open(f"{FOLDER}/cursor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self):
        """Of the last entry that was carried, None for the first time or a damaged file."""
        found = re.fullmatch(rb"(s=[0-9a-f;=a-z]+) *\n", os.pread(self.file, 512, 0))
        return found and found[1].decode()

    def write(self, cursor):
        # Always as long: one call replaces it.
        os.pwrite(self.file, cursor.encode().ljust(510) + b"\n", 0)


def text(value):
    """A field as journalctl shows it: a string, numbers where it is none, or a list where there are several."""
    if isinstance(value, list):
        if all(isinstance(part, int) for part in value):
            return bytes(value).decode(errors="replace")
        return " ".join(text(part) for part in value)
    return "" if value is None else value


def describe(entry):
    """Which file an entry belongs to, and its line there."""
    unit, target = text(entry.get("_SYSTEMD_UNIT")), text(entry.get("TARGET"))
    message = text(entry.get("MESSAGE"))
    ours = unit.startswith("salebell-")
    if ours and target == "salebell::emf" and message.startswith("{"):
        return "metrics", message
    time = datetime.datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, datetime.UTC)
    # Whoever writes to the journal may write anything.
    priority = text(entry.get("PRIORITY"))
    line = {
        "time": time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": LEVELS[int(priority)] if re.fullmatch("[0-7]", priority) else "info",
        "unit": unit.removesuffix(".service") or text(entry.get("SYSLOG_IDENTIFIER")),
        "message": message,
    }
    if not ours:
        return "system", json.dumps(line)
    for name, value in entry.items():
        if not name.startswith(("_", "SYSLOG_")) and name not in OF_THE_JOURNAL:
            line.setdefault(name.lower(), text(value))
    return "access" if target == "salebell::access" else "application", json.dumps(line)


def main():
    logs = {name: Log(name) for name in ("access", "application", "system", "metrics")}
    cursor = Cursor()
    begin = cursor.read()
    # --all: also what is longer than 4 KiB.
    command = ["/usr/bin/journalctl", "--follow", "--no-tail", "--all", "--output=json"]
    journal = subprocess.Popen(command + ([f"--after-cursor={begin}"] if begin else []), stdout=subprocess.PIPE)

    # The services have ended before us. Whatever they have said is before this mark: their entries and it come to the
    # journal through the same queue.
    end = uuid.uuid4().hex

    def stop(*_):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
            journald.sendto(f"MESSAGE=carried to the end\nSALEBELL_LOGS_END={end}\n".encode(), "/run/systemd/journal/socket")

    signal.signal(signal.SIGTERM, stop)
    for entry in map(json.loads, journal.stdout):
        if entry.get("SALEBELL_LOGS_END") == end:
            journal.kill()
            journal.wait()
            return
        log, line = describe(entry)
        logs[log].write(line)
        cursor.write(entry["__CURSOR"])
    sys.exit("journalctl has ended")


if __name__ == "__main__":
    main()
