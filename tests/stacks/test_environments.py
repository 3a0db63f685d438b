"""docs/reference/environments.md says what differs between environments, and docs/concepts/twelve-factors.md where things are."""

import re
import sys

from resolve import ENVIRONMENTS, ROOT, templates

sys.path.insert(0, str(ROOT / "scripts/operate"))

import deployed  # noqa: E402

PAGE = (ROOT / "docs/reference/environments.md").read_text()


def rows(heading):
    section = re.split(r"^## ", PAGE.split(f"## {heading}\n")[1], flags=re.M)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("|")][2:]


def test_the_table_of_parameters_is_that_of_the_files():
    files = {environment: templates.values(environment) for environment in ENVIRONMENTS}
    named = {f"{stack}.{name}" for file in files.values() for stack, values in file.items() for name in values}
    table = {row[0].strip("`"): row[1:] for row in rows("What the parameter files say")}
    assert set(table) == named
    for parameter, cells in table.items():
        stack, name = parameter.split(".")
        for environment, cell in zip(ENVIRONMENTS, cells, strict=True):
            value = deployed.stacks(environment)[stack].parameters[name]
            in_file = name in files[environment].get(stack, {})
            assert cell == (value if in_file else f"*{value or 'none'}*"), f"{parameter} in {environment} is {value}"


def by_name(node, conditions, path=()):
    """Where a part of a resource depends on one of these conditions."""
    if isinstance(node, dict):
        if "Fn::If" in node and node["Fn::If"][0] in conditions:
            yield path
        for key, value in node.items():
            yield from by_name(value, conditions, (*path, key))
    elif isinstance(node, list):
        for value in node:
            yield from by_name(value, conditions, path)


def test_all_that_goes_by_the_name_of_the_environment_is_told():
    table = rows("What the templates do by the name")
    told, needed = set(re.findall(r"`([A-Z]\w+)`", "".join(row[3] for row in table))), {"AlarmActions", "OnlyDevSleeps"}
    for template in deployed.read().values():
        conditions = template.get("Conditions") or {}
        ours = {name for name, what in conditions.items() if name == "IsProd" or re.search(r"'(IsProd|prod)'", str(what))}
        for name, resource in template["Resources"].items():
            paths = [path for path in by_name(resource.get("Properties", {}), ours) if "AlarmActions" not in path]
            alone = resource.get("Condition") in ours and resource["Type"] != "AWS::CloudWatch::Alarm"
            needed |= {name} if paths or alone else set()
    assert told == needed
    counts = {one: sum(len(stack.of("AWS::CloudWatch::Alarm")) for stack in deployed.stacks(one).values()) for one in ENVIRONMENTS}
    assert table[0][1:3] == [str(counts["prod"]), str(counts["dev"])] and counts["dev"] == counts["stage"]


def test_names_are_those_of_the_templates():
    text = "".join(path.read_text() for path in templates.paths())
    names = {row[0]: row[1] for row in rows("Names")}
    for role in re.findall(r"-[\w-]+", names["a role that others name"].replace("salebell-<environment>", "")):
        assert f"salebell-${{Environment}}{role}" in text, role
    first, *others = re.findall(r"`([\w/-]+)`", names["a log group"])
    for group in [first, *(f"/salebell/{one}" for one in others[:-1]), others[-1]]:
        assert f"LogGroupName: {group}" in text, group
    for key in re.findall(r"-\w+`", names["a key"]):
        assert f"alias/salebell-${{Environment}}{key.strip('`')}" in text, key


def test_each_of_twelve_factors_has_places_that_are_there():
    page = ROOT / "docs/concepts/twelve-factors.md"
    factors = re.findall(r"^\| (\d+)\. .+ \| (.+) \|$", page.read_text(), re.M)
    assert [int(number) for number, _ in factors] == list(range(1, 13))
    for number, places in factors:
        linked = re.findall(r"\]\(([^)#]+)", places)
        assert len(linked) >= 2 and all((page.parent / one).exists() for one in linked), f"{number}: {places}"


def test_links_of_the_operators_pages_lead_somewhere():
    """Files and headings."""
    for name in ("reference/cost", "guides/deploy", "reference/environments", "reference/stack-commands", "reference/assumptions"):
        page = ROOT / f"docs/{name}.md"
        for file, heading in re.findall(r"\]\(([^)#:]*)#?([^)]*)\)", page.read_text()):
            target = page.parent / file if file else page
            assert target.exists(), f"{name}: {file}"
            if heading:
                found = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
                slugs = [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in found]
                assert heading in slugs, f"{name}: {file}#{heading}"
