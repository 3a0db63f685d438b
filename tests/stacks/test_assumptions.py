"""docs/reference/assumptions.md has all that the emulated deployment does not show."""

import re

import stubs

from resolve import ROOT

PAGE = (ROOT / "docs/reference/assumptions.md").read_text()


def rows(heading):
    """The cells of the table below a heading."""
    section = re.split(r"^## ", PAGE.split(f"## {heading}\n")[1], flags=re.M)[0]
    table = [line.strip().strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


def test_assumptions_are_numbered_and_say_how_to_see_them():
    numbered = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row[0]) for row in numbered] == list(range(1, len(numbered) + 1))
    for row in numbered:
        assert len(row) >= 3 and len(row[1].split()) > 3, row
    # What cannot be seen in ten minutes is rare.
    assert sum(len(row) > 3 and len(row[3]) > 3 for row in numbered) > 0.9 * len(numbered)


def test_the_list_opens_with_what_no_text_answers():
    first = PAGE.split("## First of all\n")[1].split("\n## ")[0]
    assert PAGE.index("## First of all") == re.search(r"^## ", PAGE, re.M).start()
    opened = re.findall(r"^\| (\d+) \| (.+?) \|", first, re.M)
    assert [number for number, _ in opened] == ["1", "2", "3"] and all("refresh" in what for _, what in opened)


def test_every_stand_in_is_listed():
    listed = rows("Types that have a stand-in in the emulated deployment")
    wanted = [f"`{kind}`" for kind in sorted(stubs.STUBS)] + [f"`{kind}` with `{part}`" for kind, part in sorted(stubs.PARTS)]
    assert [row[0] for row in listed] == wanted
    last = int(re.findall(r"^\| (\d+) \|", PAGE, re.M)[-1])
    for kind, seen in listed:
        assert len(seen.split()) > 3, kind
        # Of the tables above, behind a colon.
        numbers = re.findall(r"\d+", seen.partition(": ")[2])
        assert all(0 < int(one) <= last for one in numbers), kind



def test_what_is_asserted_on_the_template_is_asserted():
    for what, why, by in rows("Asserted on the template instead"):
        assert len(why.split()) > 3, what
        named = re.findall(r"`([\w.]+)::(\w+)`", by)
        assert named, what
        for file, name in named:
            # A test, or a guard rule.
            test = ROOT / f"tests/stacks/{file}.py"
            text = test.read_text() if test.exists() else (ROOT / "cloudformation/rules" / file).read_text()
            assert f"def {name}(" in text or f"rule {name} " in text, f"{what}: {file}::{name}"
