"""What the runbooks say can be typed: every command, option, output, parameter, metric, setting and link in them is there."""

import functools
import os
import re
import shutil
import subprocess

import awscli.clidriver
import jmespath
import pytest

import alarms
import reference
import shell_lines
from resolve import ROOT

MUTANTS = {"alarms.yaml"}

# Programs that an operator has, or that are on an instance.
OTHERS = set(
    "awk cat curl date df dig du echo exit export find read rm for grep head journalctl od printf psql sed sha256sum sort ss systemctl tail tr "
    "uniq unset zcat done . aws make".split()
)
# Options of every `aws` command.
ANYWHERE = {"output", "query", "region", "profile"}
PROCEDURES = ("escalate", "lose-a-zone", "restore-database", "rotate-secrets")
LOG_GROUPS = {"access", "application", "system", "metrics", "sessions", "aws-waf-logs-salebell"}


@functools.cache
def pages():
    """All runbooks, their index, and the pages of what is done by day and night, by their path from the runbooks on."""
    names = (*PROCEDURES, "roll-out", "roll-back")
    others = {f"../{path.stem}": path.read_text() for name in names for path in [alarms.PAGES.parent / f"{name}.md"]}
    return {"README": (alarms.PAGES / "README.md").read_text(), **alarms.pages(), **others}


@functools.cache
def functions():
    """Those of at-night.sh, asked of a shell that has read it."""
    command = ["bash", "-c", ". scripts/stacks/at-night.sh dev && compgen -A function"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BASH_FUNC_")}
    return set(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.split())


def typed(page):
    """All commands of a page: those of its blocks, and those that stand in its sentences."""
    first = functions() | {"aws", "make", "salebell"}
    for block in shell_lines.fenced(page, "sh"):
        yield from shell_lines.commands(block)
    for text in shell_lines.inline(page):
        if re.split(r"[ ]", text)[0] in first and " " in text:
            yield from shell_lines.commands(text)


def all_typed():
    found = [(name, command) for name, page in pages().items() for command in typed(page)]
    # The bodies of the short forms.
    short = (ROOT / "scripts/stacks/at-night.sh").read_text()
    return found + [("at-night.sh", command) for command in shell_lines.commands(short) if command[0] == "aws"]


def test_each_page_has_the_four_headings_and_says_something():
    for name, page in alarms.pages().items():
        title, *sections = re.split(r"^## (.*)\n", page, flags=re.M)
        assert sections[::2] == alarms.HEADINGS, name
        assert re.match(r"# [A-Z]\w+\n\n\S+ ", title), f"{name} has no title, or no first sentence"
        for heading, text in zip(sections[::2], sections[1::2], strict=True):
            assert len(text.split()) >= 8, f"{name}: nothing is said below {heading}"
        check = sections[3]
        assert shell_lines.fenced(check, "sh") or shell_lines.fenced(check, "sql"), f"{name} checks nothing"
        assert len(page.splitlines()) <= 70, f"{name} is too long for the night"


def test_what_is_done_by_day_says_when_how_whether_it_worked_and_the_way_back():
    for name in PROCEDURES:
        page = pages()[f"../{name}"]
        headings = re.findall(r"^## (.*)$", page, re.M)
        assert headings[:4] == ["When", "Steps", "Did it work", "The way back"], name
        steps = page.split("## Steps\n")[1].split("## Did it work\n")[0]
        assert re.search(r"^1\. ", steps, re.M) and re.search(r"^2\. ", steps, re.M), f"{name} has no numbered steps"
        assert "```text" in steps, f"{name} does not show what a command prints"
        worked = page.split("## Did it work\n")[1].split("## The way back\n")[0]
        assert "`" in worked, f"{name} checks nothing"


def test_titles_are_names_of_alarms():
    """A page's title is the common part of its alarms' names."""
    for name, page in alarms.pages().items():
        title = re.match(r"# (\w+)", page)[1]
        names = [row["name"] for row in alarms.table().values() if row["page"] == name]
        assert names and all(one.startswith(title) for one in names), f"{name}: {title}, {names}"
        assert title.lower() == name.replace("-", ""), name


def test_the_index_lists_every_alarm():
    index = pages()["README"].split("## Pages\n")[1]
    listed = re.findall(r"^\| \[(\w+)\]\(([a-z0-9-]+)\.md\) \| ([^|]+) \| ([^|]+) \|$", index, re.M)
    hears = {"urgent": "pager", "ordinary": "chat", "other": "the other one", "none": "no one"}
    wanted = [(row["name"], row["page"], row["says"], hears[row["severity"]]) for row in alarms.table().values()]
    assert listed == wanted


def test_links_lead_somewhere():
    for name, page in pages().items():
        for target in re.findall(r"\]\(([^)\s]+)\)", page):
            if re.match(r"https?://", target):
                continue
            path, _, anchor = target.partition("#")
            page_file = alarms.PAGES / f"{name}.md"
            file = (page_file.parent / path).resolve() if path else page_file
            assert file.exists(), f"{name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
                anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{name}: {target}"


def test_programs_are_known():
    known = OTHERS | functions() | {"salebell"}
    unknown = {(name, command[0]) for name, command in all_typed() if command[0] not in known}
    assert not unknown


@functools.cache
def commands_of(service):
    """The table of `aws SERVICE`, asked of the command itself; empty where there is no such service."""
    command = services().get(service)
    return command and (getattr(command, "subcommand_table", None) or command._get_command_table()) or {}


@functools.cache
def services():
    return awscli.clidriver.create_clidriver()._get_command_table()


def options(service, operation):
    """Those of `aws SERVICE OPERATION`; None where there is no such command."""
    table = commands_of(service)
    if operation.startswith("wait "):
        table, operation = table["wait"].subcommand_table, operation.removeprefix("wait ")
    return set(table[operation].arg_table) if operation in table else None


def test_aws_commands_are_there_with_their_options():
    problems, count = [], 0
    for name, command in all_typed():
        if command[0] != "aws":
            continue
        count += 1
        service, operation, *rest = command[1:] + ["", ""]
        operation = " ".join([operation, *rest[: operation == "wait"]])
        if options(service, operation) is None:
            problems.append(f"{name}: aws {service} {operation}")
            continue
        given = {word[2:] for word in rest if re.match(r"--[a-z]", word)}
        # Not by an abbreviation either: `--endpoint` of `sns subscribe` would be taken for `--endpoint-url`.
        problems += [f"{name}: aws {service} {operation} --{option}" for option in given - options(service, operation) - ANYWHERE]
        if "query" in given:
            query = rest[rest.index("--query") + 1]
            try:
                jmespath.compile(re.sub(r"\$\w+", "x", query))
            except jmespath.exceptions.ParseError:
                problems.append(f"{name}: --query {query!r}")
    assert count > 80 and not problems


def test_outputs_and_parameters_are_those_of_the_stacks(stacks):
    problems = []
    for name, page in pages().items():
        for command in typed(page):
            if command[0] == "out" and not any("…" in word or word.isupper() for word in command):
                stack, output = command[1:3]
                if "$" not in output and output not in (stacks.templates.get(stack, {}).get("Outputs") or {}):
                    problems.append(f"{name}: out {stack} {output}")
            if command[0] in ("instances", "activities", "targets", "queue") and len(command) > 1 and command[1] != "OUTPUT":
                stack = "bus" if command[0] == "queue" else "service"
                if command[1] not in (stacks.templates.get(stack, {}).get("Outputs") or {}):
                    problems.append(f"{name}: {' '.join(command)}")
        for stack, parameter in re.findall(r"`([a-z]+)\.([A-Z]\w+)`", page):
            if parameter not in (stacks.templates.get(stack, {}).get("Parameters") or {}):
                problems.append(f"{name}: {stack}.{parameter}")
        for stack, given in re.findall(r"\bSTACK=([a-z]+)\s+PARAMETERS=\"([^\"]*)\"", page):
            for parameter in re.findall(r"(\w+)=", given):
                if parameter not in (stacks.templates.get(stack, {}).get("Parameters") or {}):
                    problems.append(f"{name}: {stack} {parameter}")
        for stack in re.findall(r"\bSTACK=([a-z]+)", page):
            if stack not in stacks.templates:
                problems.append(f"{name}: STACK={stack}")
        for resource in re.findall(r"--resources-to-skip (\w+)", page):
            if not any(resource in template["Resources"] for template in stacks.templates.values()):
                problems.append(f"{name}: {resource}")
    assert not problems


def test_figures_are_metrics_that_are_told():
    problems, count = [], 0
    for name, page in pages().items():
        # lb=LoadBalancer=$(out edge BalancerFullName)
        variables = dict(re.findall(r"^ *(\w+)=(\w+)=\$\(", page, re.M))
        for command in typed(page):
            if command[0] != "figures" or command[1] == "NAMESPACE":
                continue
            count += 1
            namespace, metric, statistic, *pairs = command[1:]
            dimensions = {variables.get(pair.lstrip("$"), pair).split("=")[0] for pair in pairs}
            if not re.fullmatch(r"Sum|Average|Minimum|Maximum|SampleCount|p\d\d", statistic):
                problems.append(f"{name}: {statistic}")
            if "${code}" in metric:
                metric = metric.replace("${code}", "502")
            if namespace == "Salebell":
                if metric == "$metric":
                    for metric in re.findall(r"salebell_\w+_seconds", page):
                        if reference.metrics().get(metric) != dimensions:
                            problems.append(f"{name}: {metric} by {sorted(dimensions)}")
                elif reference.metrics().get(metric) != dimensions:
                    problems.append(f"{name}: {metric} by {sorted(dimensions)}")
            elif frozenset(dimensions) not in alarms.metrics_of_aws().get(namespace, {}).get(metric, []):
                problems.append(f"{name}: {namespace} {metric} by {sorted(dimensions)}")
    assert count > 40 and not problems


# What carry-logs.py puts into each line, and what a query consists of besides fields.
ALWAYS = {"time", "level", "unit", "message"}
QUERY = set("filter stats sort limit display by as desc in like and or not count max min sum pct bin ispresent".split())


def fields_of(group):
    """What a line of a log group has."""
    if group == "metrics":
        return reference.metrics().keys() | {"environment", "service"}
    if group in ("access", "application"):
        is_access = group == "access"
        parts = {part for part in reference.log_parts() if (part == "access") == is_access}
        return ALWAYS | {"target"} | {field.replace(".", "_") for field, of in reference.log_fields().items() if of & parts}
    return ALWAYS


def is_logged(group, target, text):
    """Whether messages of a group have this in them, as far as they are of ours."""
    if group == "access":
        return any(text in path for path in reference.routes())
    said = [message for part, message in reference.log_messages() if target in (None, part) or part is None]
    return group != "application" or any(text in message for message in said)


def test_logs_are_asked_for_what_they_have():
    """Groups, the parts of the program that log something, the fields of a line, and messages."""
    problems, count = [], 0
    for name, page in pages().items():
        problems += [
            f"{name}: nothing says salebell::{part}"
            for part in set(re.findall(r"`?salebell::(\w+)", page)) - reference.log_parts().keys()
        ]
        problems += [
            f"{name}: salebell::{part} never says {text}"
            for part, text in re.findall(r'`salebell::(\w+)`\s"([^"]+)"', page)
            if (part, text.removesuffix(": …")) not in reference.log_messages()
        ]
        for command in typed(page):
            if command[0] != "ask" or command[1] == "GROUP":
                continue
            count += 1
            group, query, *minutes = command[1:]
            if group not in LOG_GROUPS:
                problems.append(f"{name}: there is no group {group}")
            if not all(re.fullmatch(r"\d+", one) for one in minutes):
                problems.append(f"{name}: {minutes}")
            if group.startswith("aws-waf"):
                continue
            bare = re.sub(r'"[^"]*"|/[^/]+/(?=$| |\))', "", query)
            known = QUERY | fields_of(group) | set(re.findall(r" as (\w+)", bare))
            problems += [f"{name}: {word} in {query}" for word in re.findall(r"(?<![\w@.])[a-z]\w*", bare) if word not in known]
            target = re.search(r'target = "salebell::(\w+)"', query)
            for pattern in re.findall(r"message like /([^/]+)/", query):
                absent = [text for text in pattern.split("|") if not is_logged(group, target and target[1], text)]
                problems += [f"{name}: no message has {text} in {query}" for text in absent]
    assert count > 40 and not problems


def test_settings_and_commands_of_ours_are_there():
    areas = {setting.split(".")[0] for setting in reference.settings()}
    makefile = (ROOT / "Makefile").read_text()
    targets = dict(re.findall(r"^([a-z-]+):(?:.*\n)((?:\t.*\n)*)", makefile, re.M))
    problems = []
    for name, page in pages().items():
        for setting in re.findall(r"`([a-z]+\.[a-z_]+)`", page):
            if setting.split(".")[0] in areas and setting not in reference.settings():
                problems.append(f"{name}: {setting}")
        for command in typed(page):
            if command[0] == "salebell" and command[1] not in reference.subcommands():
                problems.append(f"{name}: {' '.join(command)}")
            if command[0] == "make" and command[1] not in targets:
                problems.append(f"{name}: {' '.join(command)}")
            elif command[0] == "make":
                given = [word.split("=")[0] for word in command[2:] if "=" in word]
                problems += [f"{name}: {' '.join(command)}" for one in given if not re.search(rf"\b{one}\b", targets[command[1]])]
    assert not problems


def test_shell_blocks_are_shell():
    for name, page in pages().items():
        for block in shell_lines.fenced(page, "sh"):
            # What is to be filled in is an ellipsis, which the shell takes for a word.
            done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
            assert done.returncode == 0, f"{name}: {done.stderr}\n{block}"


def test_sql_is_understood_by_the_schema():
    """Every block of SQL, and every statement in a sentence, is prepared on a database with our migrations."""
    if not shutil.which("psql") or subprocess.run([ROOT / "scripts/lib/find-postgres.sh"], capture_output=True).returncode:
        pytest.skip("needs the programs of PostgreSQL")
    statements = []
    for name, page in pages().items():
        texts = shell_lines.fenced(page, "sql")
        texts += [text for text in shell_lines.inline(page) if re.match(r"(select|update|analyze|alter role) ", text)]
        for text in texts:
            for statement in filter(None, map(str.strip, text.split(";"))):
                # An id or a process id to be filled in.
                statement = statement.replace("'…'", "'00000000-0000-0000-0000-000000000000'").replace("(…)", "(1)")
                statements.append((name, statement))
    assert len(statements) > 10
    script = ["\\set ON_ERROR_STOP 1"]
    script += [f"\\i {path}" for path in sorted((ROOT / "migrations").glob("*.sql"))]
    for name, statement in statements:
        # Nothing is changed or ended: it is planned, or done and taken back.
        plain = re.match(r"select|update", statement) and "pg_terminate" not in statement and "pg_cancel" not in statement
        script += [f"\\echo {name}", f"begin; {'explain ' if plain else ''}{statement}; rollback;"]
    done = subprocess.run(
        ["scripts/with-postgres.sh", "sh", "-c", 'psql -qX "$DATABASE_URL"'],
        input="create role app;\n" + "\n".join(script), text=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-1000:]
