"""Pages: every link leads to a file and a heading that are there, files name pages that are there, decisions are numbered."""

import pathlib
import re
import subprocess

import pytest

from resolve import ROOT

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
PAGES = [path for path in TRACKED if path.endswith(".md") and (ROOT / path).exists()]


def without_code(page):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^( *)```.*?^\1```$", "", page, flags=re.M | re.S))


def anchors(page):
    """As GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in plain}


def broken(path, page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (ROOT / path).parent / file
        if not found.exists() or (anchor and anchor not in anchors(found.read_text() if file else page)):
            yield target


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path):
    assert not list(broken(path, (ROOT / path).read_text()))


def test_a_broken_link_is_found():
    page = "# A page\n\n[a](#a-page) [b](#b-page) [c](CHANGELOG.md) [d](gone.md) `[e](gone.md)`\n"
    assert list(broken("CONTRIBUTING.md", page)) == ["#b-page", "gone.md"]


def test_pages_that_files_name_are_there():
    """All but those that Rust sources name (tests/it/project/source_rules.rs)."""
    named = {}
    for path in TRACKED:
        # The mutants name what is not there.
        if path == "CHANGELOG.md" or path.startswith("tests/stacks/broken/") or path.endswith(".rs") or not (ROOT / path).is_file():
            continue
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        for page in re.findall(r"(?<![\w/.-])docs/[a-z0-9/-]+\.md", text):
            named.setdefault(page, path)
    assert len(named) > 50
    assert not {page: path for page, path in named.items() if not pathlib.Path(ROOT / page).exists()}


def test_every_page_is_reached_from_the_index():
    """By links alone, from docs/README.md."""
    seen, to_read = set(), ["docs/README.md"]
    while to_read:
        path = to_read.pop()
        if path in seen:
            continue
        seen.add(path)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", without_code((ROOT / path).read_text())):
            if not re.match(r"[a-z]+:", target):
                to_read.append(str(((ROOT / path).parent / target).resolve().relative_to(ROOT)))
    assert {path for path in PAGES if path.startswith("docs/")} <= seen


def test_decisions_are_numbered_dated_and_listed():
    folder = ROOT / "docs/decisions"
    files = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    assert [name[:5] for name in files] == [f"{number:04d}-" for number in range(1, len(files) + 1)]
    listed = re.findall(r"^- \[(\d{4})\]\((\1-[a-z0-9-]+\.md)\) (.+)$", (folder / "README.md").read_text(), re.M)
    titles = {name: (folder / name).read_text().splitlines()[0].removeprefix("# ") for name in files}
    assert sorted((name, title) for _, name, title in listed) == sorted(titles.items())
    date = r"20\d\d-\d\d-\d\d"
    for name in files:
        status = (folder / name).read_text().splitlines()[2]
        assert re.fullmatch(rf"\*(Accepted|Replaced by .+|Withdrawn) {date}(, revised {date})?\.\*", status), f"{name}: {status}"


def test_files_that_pages_name_are_there():
    """In code, such as `src/http/mod.rs`; pages of the image mean its own scripts."""
    named = re.compile(r"`((?:src|core|tests|scripts|benches|migrations|packer|systemd|userdata|cloudformation)/[\w/.-]+\.\w+)`")
    found = {(path, name) for path in PAGES if path != "CHANGELOG.md" for name in named.findall((ROOT / path).read_text())}
    assert len(found) > 60
    assert not {(path, name) for path, name in found if not (ROOT / name).exists() and not (ROOT / "packer" / name).exists()}
