"""A machine of Debian with a real systemd, in which packages are installed: scripts/boot-instance.sh, with the bare root of
scripts/run-in-debian.sh in place of an image. Runs as root in a network namespace of its own (run.sh)."""

import pathlib
import shutil
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# What both machines and this one see: packages go there, and what is moved.
SHARED = "/srv/move"


class Failed(Exception):
    """A command of a machine has failed: what it said."""


class Machine:
    def __init__(self, folder, root, address, shared):
        self.folder, self.address, self.shared = pathlib.Path(folder), address, shared
        self.folder.mkdir()
        self.log = open(self.folder / "console.log", "wb")
        self.console = subprocess.Popen(
            [REPOSITORY / "scripts/boot-instance.sh", self.folder, root, address],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        wait("the machine has a systemd", lambda: (self.folder / "init").exists() or self.console.poll() is not None)
        self.init = (self.folder / "init").read_text().strip()
        wait("it can be reached", lambda: self.try_run("test -S /run/systemd/private").returncode == 0)
        self.run("systemctl is-system-running --wait || systemctl list-units --failed --no-legend")
        # The caller's folder, in the machine's own mounts.
        self.run(f"mkdir -p {SHARED}")
        subprocess.run(
            ["nsenter", "--target", self.init, "--mount", "mount", "-t", "tmpfs", "-o", "size=2G", "shared", SHARED], check=True
        )

    def try_run(self, script, user=None):
        inside = ["bash", "-euc", script] if user is None else ["runuser", "-u", user, "--", "bash", "-euc", script]
        return subprocess.run(
            ["nsenter", "--target", self.init, "--all", "--", "env", "-i", "HOME=/root", "LANG=C.UTF-8",
             "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", *inside],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180,
        )  # fmt: skip

    def run(self, script, user=None):
        """Runs a script of the shell as root, which must succeed, and returns what it printed."""
        done = self.try_run(script, user)
        if done.returncode != 0:
            raise Failed(f"{script}\n{done.stdout}{done.stderr}\n{self.journal()}")
        return done.stdout + done.stderr

    def is_active(self, unit):
        return self.try_run(f"systemctl is-active {unit}").stdout.strip()

    def journal(self):
        return self.try_run("journalctl --no-pager --output short-monotonic | tail -n 60").stdout

    def put(self, path, name):
        """A file of this machine, there."""
        with open(path, "rb") as source:
            subprocess.run(
                ["nsenter", "--target", self.init, "--mount", "sh", "-c", f'cat >"$0"', name], stdin=source, check=True
            )

    def put_text(self, text, name):
        subprocess.run(["nsenter", "--target", self.init, "--mount", "sh", "-c", 'cat >"$0"', name], input=text, text=True, check=True)

    def stop(self):
        self.console.stdin.close()
        try:
            self.console.wait(timeout=60)
        finally:
            self.log.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def wait(what, condition, seconds=60, pause=0.05):
    until = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause)
