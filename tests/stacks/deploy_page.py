"""Executes the commands of docs/guides/deploy.md as they stand, in one shell, on an emulated AWS."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import emulator
from emulator import ROOT

PAGE = ROOT / "docs/guides/deploy.md"
BLOCK = re.compile(r"^(?:<!-- on AWS alone: (\w+) -->\n)?```sh\n(.*?)^```\n(?:```\n(.*?)^```\n)?", re.M | re.S)

# Steps that are marked in the page: why neither the emulator nor this machine does them, and what is done in their place.
ON_AWS_ALONE = {
    "bake": (
        "MiniStack runs no instance that Packer could reach; `make bake-local` tests what is baked",
        'baked=$(aws ec2 register-image --name salebell --query ImageId --output text) && aws ec2 create-tags --resources "$baked"'
        ' --tags Key=Component,Value=image "Key=Version,Value=$(git rev-parse HEAD)"',
    ),
    "defaults": (
        "MiniStack knows none of its three calls of EC2, and the account's name is no host of this machine",
        "aws iam create-service-linked-role --aws-service-name config.amazonaws.com",
    ),
    "build": ("it takes minutes; a program of that name which calls the one under test is there", ""),
}
# Commands that end with another code than 0 here, by their step, and why.
ENDS = {
    ("7. The service", "make status ENV=dev"): "MiniStack launches no instance, and nobody confirms its mails",
}
# What comes after a block, by its beginning. Another team's queue, for other tests: MiniStack takes a parameter that only changes
# a condition for no change, so it has to be there from the first deploy on. And the database of the emulator is a name alone.
AFTER = {
    "cat >": """sed -i '0,/{{/s//{{ "bus": {{ "ExampleSubscriber": "on" }},/' cloudformation/parameters/dev.json""",
    "output() {": "host=127.0.0.1; export PGPORT={port}",
}
# Steps that want PostgreSQL's programs on this machine; without them the story goes on behind them.
WITH_DATABASE = {"6. The database", "8. The first request"}
# As RDS has it: the master user is no superuser, `rds_iam` is there, connections are encrypted, and tokens count for passwords.
RDS = """
copy (values ('hostssl all all 127.0.0.1/32 trust')) to program 'cat >pg_hba.conf';
copy (select 1) to program 'umask 077; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=rds -keyout server.key -out server.crt 2>&1';
alter system set ssl = on;
select pg_reload_conf();
create role rds_iam; create role salebell_master login createrole; grant rds_iam to salebell_master with admin option;
create database salebell owner salebell_master;
"""


class Block:
    """Commands of the page, what it says that they print, and the step that they are in."""

    def __init__(self, step, mark, commands, output):
        self.step, self.mark, self.commands = step, mark, commands
        self.output = output.splitlines() if output else []
        self.said, self.failed = None, []

    def answer(self, question):
        """What the page answers a question with; None if it does not show it."""
        for line in self.output:
            shown, _, answer = line.rpartition(" ")
            if shown.endswith("/N]") and pattern(shown).fullmatch(question):
                return answer

    def missing(self):
        """The first line of the page's output that does not come, in its order, among what was printed."""
        lines = iter(self.said.splitlines())
        for line in self.output:
            shown = line.rpartition(" ")[0] if re.search(r"/N\] \w+$", line) else line
            if line != "…" and not any(pattern(shown).fullmatch(one) for one in lines):
                return line


def pattern(line):
    return re.compile(re.escape(line).replace("…", ".*"))


def blocks(text):
    """All blocks of a page in their order. What is yours in it has other names here: `make deploy` refuses example.com."""
    found = []
    for part in re.split(r"^## ", text.replace("example.com", "salebell.test"), flags=re.M)[1:]:
        step = part.splitlines()[0]
        found += [Block(step, *groups) for groups in BLOCK.findall(part)]
    return found


def wrong(found):
    """What is wrong with marks and tables."""
    marks = [block.mark for block in found if block.mark]
    problems = [f"{one} is marked, and nothing says why" for one in marks if one not in ON_AWS_ALONE]
    problems += [f"{one} has a reason, and is marked nowhere" for one in ON_AWS_ALONE if one not in marks]
    here = {(block.step, line) for block in found for line in block.commands.splitlines()}
    return problems + [f"{one} is nowhere" for one in set(ENDS) - here]


class Database:
    """A PostgreSQL of this machine that is as Aurora for whoever logs in."""

    def __init__(self):
        command = ["scripts/with-postgres.sh", "sh", "-c", 'echo "$DATABASE_URL"; exec cat']
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        url = self.process.stdout.readline().strip()
        self.port = re.search(r":(\d+)/", url)[1]
        subprocess.run(["psql", "-qX", "-v", "ON_ERROR_STOP=1", url], input=RDS, text=True, check=True, stdout=subprocess.DEVNULL)

    @staticmethod
    def possible():
        return shutil.which("psql") and not subprocess.run([ROOT / "scripts/lib/find-postgres.sh"], capture_output=True).returncode

    def stop(self):
        self.process.stdin.close()
        self.process.wait(20)


class Shell:
    """An operator's shell in a copy of the repository, with a home of its own."""

    def __init__(self, folder, of):
        self.folder, self.emulator, self.database, self.api = folder, of, None, None
        self.copy, home = folder / "salebell", folder / "home"
        # What `git clone` gives, as far as the page uses it.
        for name in ("scripts", "cloudformation"):
            shutil.copytree(ROOT / name, self.copy / name)
        for name in ("Makefile", "Cargo.toml"):
            shutil.copy(ROOT / name, self.copy)
        git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "init.defaultBranch=main"]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "as it is"]):
            subprocess.run([*git, *words], cwd=self.copy, check=True, stdout=subprocess.DEVNULL)
        target = os.environ.get("CARGO_TARGET_DIR", "target")
        self.binary = (ROOT / os.environ.get("SALEBELL_BINARY", f"{target}/debug/salebell")).resolve()
        built = self.copy / "target/release/salebell"
        built.parent.mkdir(parents=True)
        built.write_text(f'#!/bin/sh\nexec {self.binary} "$@"\n')
        built.chmod(0o755)
        (home / ".aws").mkdir(parents=True)
        keys = "aws_access_key_id = 000000000000\naws_secret_access_key = test"
        (home / ".aws/config").write_text(f"[profile salebell-dev]\nendpoint_url = {of.endpoint}\n{keys}\n")
        self.listen = emulator.free_port()
        (home / ".curlrc").write_text(f'connect-to = "::127.0.0.1:{self.listen}"\ninsecure\nfail\n')
        programs = folder / "bin"
        programs.mkdir()
        (programs / "aws").symlink_to(pathlib.Path(sys.executable).parent / "aws")
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(home),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", f"{pathlib.Path.home()}/.cache"),
            "AWS_ENDPOINT_URL": of.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        }
        for name in ("SSL_CERT_FILE", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
            if name in os.environ:
                self.environment[name] = os.environ[name]
        script, self.script = os.pipe()
        # Commands come by a pipe of their own: what they read are the answers.
        self.process = subprocess.Popen(
            ["bash", f"/dev/fd/{script}"], pass_fds=[script], cwd=self.copy, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        os.close(script)
        self.say("""trap 'printf "\\001failed %s %s\\n" "$?" "${BASH_COMMAND//[[:cntrl:]]/ }"' ERR""")

    def say(self, text):
        os.write(self.script, f"{text}\n".encode())

    def run(self, block):
        """Runs a block, or what stands in its place, answers as the page does, and keeps what was said and what failed."""
        commands = ON_AWS_ALONE.get(block.mark, ("", "false"))[1] if block.mark else block.commands
        if self.process.poll() is not None:
            block.failed.append("the shell has ended")
        if block.failed or block.step in WITH_DATABASE and not Database.possible():
            block.said = ""
            return
        if "psql" in commands or "https://" in commands:
            self.need(api="https://" in commands)
        # A command that waits for ever must not hold the tests.
        alarm = threading.Timer(400, self.process.kill)
        alarm.daemon = True
        alarm.start()
        self.say(f"{commands}\necho $'\\001end'")
        lines = []
        for line in self.process.stdout:
            line = line.rstrip("\n")
            if line == "\1end":
                break
            if line.startswith("\1failed"):
                block.failed.append(line.removeprefix("\1failed "))
                continue
            lines.append(line)
            if line.endswith("/N]"):
                answer = block.answer(line)
                if answer is None:
                    block.failed.append(f"the page does not show the question {line}")
                self.process.stdin.write(f"{answer or 'n'}\n")
                self.process.stdin.flush()
        else:
            block.failed.append("the shell has ended")
        alarm.cancel()
        block.said = "\n".join(lines) + "\n"
        for begin, more in AFTER.items():
            if block.commands.startswith(begin):
                if "{port}" in more:
                    self.need(api=False)
                self.say(more.format(port=self.database and self.database.port))
                # Not a block's: it must work.
                self.say("echo $'\\001end'")
                assert self.process.stdout.readline() == "\1end\n", more

    def need(self, api):
        """The database, and the API at the name of the load balancer: with the user and the role that an instance has."""
        self.database = self.database or Database()
        if api and not self.api:
            settings = {
                "DATABASE__URL": f"postgres://app@127.0.0.1:{self.database.port}/salebell?sslmode=require",
                "SERVER__LISTEN": f"127.0.0.1:{self.listen}",
                "SERVER__TLS": "minted",
                "SERVER__GRPC_LISTEN": "off",
                "SERVER__METRICS_LISTEN": "127.0.0.1:0",
                "FILES__DIRECTORY": str(self.folder / "files"),
            }
            environment = {"PATH": os.environ["PATH"], **{f"SALEBELL_{name}": value for name, value in settings.items()}}
            with (self.folder / "api.log").open("w") as log:
                self.api = subprocess.Popen([self.binary, "api"], env=environment, stdout=log, stderr=log)
            ask = ["curl", "-sSfk", "-o", "/dev/null", f"https://127.0.0.1:{self.listen}/readyz"]
            emulator.until(lambda: not subprocess.run(ask, capture_output=True).returncode, "salebell api", 60)

    def parameters(self):
        """The parameters that the page has written, of all stacks together."""
        written = json.loads((self.copy / "cloudformation/parameters/dev.json").read_text())
        return {name: value for values in written.values() for name, value in values.items()}

    def stop(self):
        with contextlib.suppress(OSError):
            os.close(self.script)
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        if self.api:
            self.api.terminate()
            self.api.wait(20)
        if self.database:
            self.database.stop()
