"""A machine of Debian with a real systemd, in which packages are installed: scripts/lib/boot-instance.sh, with the bare root of
scripts/lib/run-in-debian.sh in place of an image. Runs as root in a network namespace of its own (run.sh)."""

import pathlib
import shutil
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

class Failed(Exception):
    """A command of a machine has failed: what it said."""


class Machine:
    def __init__(self, folder, root, address):
        self.folder, self.address = pathlib.Path(folder), address
        self.folder.mkdir()
        self.log = open(self.folder / "console.log", "wb")
        self.console = subprocess.Popen(
            [REPOSITORY / "scripts/lib/boot-instance.sh", self.folder, root, address],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        wait("the machine has a systemd", lambda: (self.folder / "init").exists() or self.console.poll() is not None)
        self.init = (self.folder / "init").read_text().strip()
        wait("it can be reached", lambda: self.try_run("test -S /run/systemd/private").returncode == 0)
        self.run("systemctl is-system-running --wait || systemctl list-units --failed --no-legend")
        # What the root leaves out of packages, to be small.
        self.run("rm -f /etc/dpkg/dpkg.cfg.d/*")

    def inside(self, script):
        return [
            "nsenter", "--target", self.init, "--all", "--", "env", "-i", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-euc", f"cd /root\n{script}",
        ]  # fmt: skip

    def try_run(self, script):
        return subprocess.run(self.inside(script), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)

    def run(self, script):
        """Runs a script of the shell as root, which must succeed, and returns what it printed."""
        done = self.try_run(script)
        if done.returncode != 0:
            raise Failed(f"{script}\n{done.stdout}{done.stderr}\n{self.journal()}")
        return done.stdout + done.stderr

    def is_active(self, unit):
        return self.try_run(f"systemctl is-active {unit}").stdout.strip()

    def journal(self):
        return self.try_run("journalctl --no-pager --output short-monotonic | tail -n 60").stdout

    def put(self, path, name):
        """Copies a file of this machine to it."""
        with open(path, "rb") as source:
            subprocess.run(self.inside(f"cat >{name}"), stdin=source, check=True)

    def carry(self, folder, other):
        """Copies a folder to another machine, as `rsync -a` would."""
        packed = subprocess.Popen(self.inside(f"tar -C {folder} -c ."), stdout=subprocess.PIPE)
        subprocess.run(other.inside(f"tar -C {folder} -xp"), stdin=packed.stdout, check=True)
        assert packed.wait() == 0

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
