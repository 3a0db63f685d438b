"""Runs the commands of the pages as they stand, by the `aws` command and the operator's own, against an emulated AWS, and keeps
what came of each call.

`aws` takes a second to start, and the pages call it hundreds of times: here it is a word to this process, in which it is loaded
once. So is `make`, whose recipe is asked of make itself. A command of an instance or of a laptop's network is kept, and not run.
"""

import base64
import contextlib
import io
import itertools
import os
import re
import shlex
import signal
import socketserver
import subprocess
import sys
import threading
import time
import traceback
from unittest import mock

import awscli.clidriver

import shell_lines
from emulator import LIBRARY, ROOT, arguments, command

CLIENT = """#!/bin/bash
# What comes by standard input comes by a file, since it is another process that reads it.
words=()
for word in "$@"; do
  if [ "$word" = file:///dev/stdin ]; then
    given=$(mktemp "$(dirname "$0")/given.XXXXXX")
    cat >"$given"
    word=file://$given
  fi
  words+=("$word")
done
set -- "${{words[@]}}"
exec 3<>/dev/tcp/127.0.0.1/{port}
{{ printf '%s\\0' "$(basename "$0")" "$#"; printf '%s\\0' "$@"; }} >&3
read -r code <&3
IFS= read -r error <&3
[ -z "$error" ] || base64 -d <<<"$error" >&2
cat <&3
exit "$code"
"""
ELSEWHERE = ("curl", "df", "dig", "journalctl", "psql", "salebell", "ss", "systemctl")


class Walk:
    """A folder of programs of which each tells this process what it was called with. `calls` has (words, code, error)."""

    def __init__(self, folder, emulator, templates):
        self.emulator, self.templates, self.calls, self.known = emulator, templates, [], {}
        # The second call of a service is ten times faster than the first.
        self.reused = awscli.clidriver.create_clidriver()
        walk = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                words = [self.part(), *(self.part() for _ in range(int(self.part())))]
                try:
                    code, out, error = walk.run(words)
                except Exception:
                    code, out, error = 70, "", traceback.format_exc()
                walk.calls.append((words, code, error))
                self.wfile.write(b"%d\n%s\n%s" % (code, base64.b64encode(error.encode()), out.encode()))

            def part(self):
                found = bytearray()
                while (char := self.rfile.read(1)) not in (b"\0", b""):
                    found += char
                return found.decode()

        self.server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.bin = folder / "programs"
        self.bin.mkdir()
        client = CLIENT.format(port=self.server.server_address[1])
        plugin = "#!/bin/sh\necho 1.2.779.0\n"
        for name in ("aws", "make", *ELSEWHERE, "session-manager-plugin"):
            file = self.bin / name
            file.write_text(plugin if name == "session-manager-plugin" else client)
            file.chmod(0o755)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def run(self, words):
        # A command of ours is run once: the pages deploy the same stack again and again.
        key = tuple(words) if words[0] == "make" else len(self.calls)
        if key not in self.known:
            self.known[key] = getattr(self, words[0], self.elsewhere)(words[1:])
        return self.known[key]

    def shell(self, text):
        """Runs a text as somebody would who has read the short forms in."""
        path = f"{self.bin}:{os.environ['PATH']}"
        words = ["bash", "-c", f". scripts/stacks/at-night.sh dev\n{text}"]
        return subprocess.run(words, env={**self.environment(), "PATH": path}, cwd=ROOT, capture_output=True, text=True, timeout=600)

    def elsewhere(self, words):
        return 0, "", ""

    def salebell(self, words):
        """The program itself, where it only asks AWS."""
        if words[:2] != ["boot", "--check"]:
            return 0, "", ""
        binary = os.environ["SALEBELL_BINARY"]
        done = subprocess.run([binary, *words], env=self.environment(), cwd=ROOT, capture_output=True, text=True, timeout=100)
        return done.returncode, done.stdout, done.stderr

    def environment(self):
        # Where the `aws` command has its own models, which it says when it is loaded.
        return {**self.emulator.environment, "AWS_PAGER": "", "AWS_MAX_ATTEMPTS": "1", "AWS_DATA_PATH": os.environ["AWS_DATA_PATH"]}

    def aws(self, words):
        # It keeps a region that it was once told, and mixes options of EC2's commands up.
        driver = awscli.clidriver.create_clidriver() if "--region" in words or words[0] == "ec2" else self.reused
        out, error = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
        with (
            mock.patch.dict(os.environ, self.environment(), clear=True),
            mock.patch.object(sys, "argv", ["aws", *words]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
        ):
            try:
                # The command of PyPI does not heed AWS_ENDPOINT_URL for SQS (findings/): it is told each time.
                code = driver.main(["--endpoint-url", self.emulator.endpoint, *words])
            except SystemExit as end:
                code = int(end.code or 0)
        return code, *(stream.buffer.getvalue().decode() for stream in (out, error))

    def make(self, words):
        """The recipe, run by this Python with every question answered by yes, also that of a replacement."""
        asked = subprocess.run(["make", "-n", "--no-print-directory", *words, "YES=1", "REPLACE=1"], cwd=ROOT, capture_output=True, text=True)
        if asked.returncode:
            return 2, "", asked.stderr
        _, name, *rest = shlex.split(asked.stdout)
        process = subprocess.Popen(
            [sys.executable, LIBRARY / "start.py", command(name), f"--folder={self.templates}", *arguments(rest)],
            env={**self.environment(), "PATH": f"{self.bin}:{os.environ['PATH']}", "PYTHONPATH": "scripts/stacks:scripts/lib"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, text=True,
        )  # fmt: skip
        if name == "logs" and not any(word.startswith("--request-id") for word in rest):
            # What it would go on with until Ctrl-C.
            shown = list(itertools.takewhile(lambda line: "filter-log-events" not in line, process.stdout))
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            said = "".join(shown) + process.communicate(timeout=60)[0]
        else:
            # Which instance.
            said = process.communicate("1\n", timeout=300)[0]
        return process.returncode, said, said[-500:] if process.returncode else ""


def texts(page, first):
    """What of a page can be run: its blocks, and commands that stand in a sentence and begin with one of `first`."""
    yield from shell_lines.fenced(page, "sh")
    for text in shell_lines.inline(page):
        if " " in text and text.split(" ")[0] in first:
            yield text


def filled(text, values):
    """A text with what is to be filled in: each value for the first pattern that fits; what is left is a word."""
    for pattern, value in values:
        text = re.sub(pattern, value, text)
    return text
