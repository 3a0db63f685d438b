"""The commands of docs/guides/other-hosts.md, as they stand there: blocks of the shell whose first line says where."""

import re
import textwrap

from machine import REPOSITORY

PAGE = (REPOSITORY / "docs/guides/other-hosts.md").read_text()


def section(title):
    """What stands below a heading, up to the next one of its level or above."""
    level, lines, inside_block = None, [], False
    for line in PAGE.splitlines(keepends=True):
        inside_block ^= line.lstrip().startswith("```")
        heading = not inside_block and re.match("(#+) (.*)", line)
        if heading and level and len(heading[1]) <= level:
            break
        if level:
            lines.append(line)
        if heading and heading[2] == title:
            level = len(heading[1])
    assert lines, f"the page has no section “{title}”"
    return "".join(lines)


def blocks(text, language="sh"):
    return [textwrap.dedent(block) for block in re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)]


def steps(title):
    """(where, commands) of each block: `# on the old machine` is the old one's."""
    found = []
    for block in blocks(section(title)):
        where, commands = block.split("\n", 1)
        place = re.fullmatch(r"# on (?:a|the) (\w+) machine", where)
        if place:
            found.append((place[1], commands))
    return found
