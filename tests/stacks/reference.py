"""What the program says about itself: its pages in docs/reference/. `salebell reference` prints them, and
tests/it/project/reference.rs compares them; so no test here reads the program's sources."""

import functools
import re

from resolve import ROOT


@functools.cache
def page(name):
    text = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    assert f"<!-- Printed by `salebell reference {name}`;" in text, f"the program does not print {name}.md"
    return text


@functools.cache
def rows(name, *columns):
    """Rows of the page's tables with these columns, as lists of cells."""
    found, wanted = [], None
    for line in page(name).splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            wanted = None
        elif wanted is None:
            wanted = tuple(cells) == columns
        elif wanted and cells != ["---"] * len(columns):
            assert len(cells) == len(columns), line
            found.append(cells)
    assert found, f"{name}.md has no table of {', '.join(columns)}"
    return found


def code(cell):
    """The words of a cell that are code."""
    return re.findall(r"`([^`]+)`", cell)


@functools.cache
def settings():
    """Setting → default, both as text."""
    return {code(key)[0]: "".join(code(default)) for key, default, _ in rows("settings", "key", "default", "meaning")}


@functools.cache
def subcommands():
    return set(re.findall(r"^## salebell ([\w-]+)$", page("commands"), re.M))


@functools.cache
def routes():
    """Path → methods, of the API; its loopback listener has others."""
    return {code(path)[0]: code(methods) for path, methods in rows("routes", "path", "methods")}


@functools.cache
def metrics():
    """Metric → its dimensions in CloudWatch, None for what does not go there."""
    found = {}
    for name, _, _, by, _ in rows("metrics", "metric", "type, unit", "labels", "in CloudWatch by", "meaning"):
        dimensions = {"fleet": {"environment"}, "–": None}.get(by, {"environment", "service", *code(by)})
        found[code(name)[0]] = dimensions and frozenset(dimensions)
    return found


@functools.cache
def label_values(metric, label):
    """Values that a label of a metric, or the dimension `service`, ever has."""
    if (metric, label) == ("salebell_failures_total", "kind"):
        return {part for part, levels in log_parts().items() if levels & {"error", "warn"}} | {"other"}
    owner = "in CloudWatch" if label == "service" else f"`{metric}`"
    for of, name, values, _ in rows("metrics", "metric", "label", "values", "meaning"):
        if (of, name) == (owner, f"`{label}`"):
            return set(code(values))
    return set()


@functools.cache
def log_parts():
    """Part of the program → levels of its log lines. Their target is `salebell::` and the part."""
    found = rows("logs", "target", "levels", "what")
    return {code(target)[0].removeprefix("salebell::"): set(code(levels)) for target, levels, _ in found}


@functools.cache
def log_fields():
    """Field of log lines, as the program writes it (`request.id`) → the parts that do."""
    return {code(field)[0]: set(code(parts)) for field, parts, _ in rows("logs", "field", "of", "meaning")}


@functools.cache
def log_messages():
    """Pairs of a part (None: any) and the beginning of a message that it logs."""
    found = rows("logs", "target", "message", "meaning")
    return [("".join(code(target)).removeprefix("salebell::") or None, code(text)[0]) for target, text, _ in found]
