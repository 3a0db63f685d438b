"""docs/reference/cost.md is what `make cost` computes, and no budget is below it."""

import re
import sys

import pytest
from resolve import ENVIRONMENTS, ROOT, resolve

sys.path.insert(0, str(ROOT / "scripts/operate"))

import cost  # noqa: E402
import deployed  # noqa: E402

PAGE = cost.PAGE.read_text()


def rows(heading):
    """The cells of the first table below a heading."""
    section = re.split(r"^## ", PAGE.split(f"## {heading}\n")[1], flags=re.M)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("|")][2:]


def changed(text):
    """`data.Readers=1` and more of the kind, as values by stack."""
    found = {}
    for stack, parameter, value in re.findall(r"`(\w+)\.(\w+)=([\w.-]+)`", text):
        assert parameter in deployed.stacks("prod")[stack].parameters, f"{stack}.{parameter}"
        found.setdefault(stack, {})[parameter] = value
    return found


def test_the_tables_are_computed():
    assert cost.page(PAGE) == PAGE, "make cost, and look at what has changed"
    # The page says so as long as it is so.
    assert ("were never checked" in PAGE) == (not cost.read()["checked"])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_month_as_it_was_estimated_stays_below_the_budget(environment):
    assert cost.too_low(environment) is None


def test_every_price_is_used_and_each_has_a_unit():
    prices, used = cost.read()["prices"], set()
    for environment in ENVIRONMENTS:
        used |= {name for _, _, parts in cost.estimate(environment) for name, _ in parts}
    for what, _ in rows("Options"):
        used |= {name for _, _, parts in cost.estimate("prod", changed(what)) for name, _ in parts}
    types = set(deployed.read()["service"]["Parameters"]["InstanceType"]["AllowedValues"])
    assert set(prices) == used | types
    assert all(one["dollars"] > 0 and one["unit"] for one in prices.values())


def test_what_changes_the_bill_changes_it_by_what_the_page_says():
    for where, what, dollars, why in rows("How to lower it"):
        saved = cost.total(where) - cost.total(where, changed(what))
        assert abs(saved - float(dollars)) < 1, f"{where}, {what}: {saved:.0f}"
        assert why
    for what, dollars in rows("Options"):
        more = cost.total("prod", changed(what)) - cost.total("prod")
        assert abs(more - float(dollars.replace(",", ""))) < 1, f"{what}: {more:.0f}"
    first, differences = 720, [float(dollars) for _, dollars in rows("Against the first estimate")]
    assert abs(first + sum(differences) - cost.total("prod")) < 2


def test_more_of_something_costs_more():
    """Each quantity that a parameter file states is one that the estimate goes by."""
    for stack, values in {"service": {"MinSize": "6"}, "data": {"Readers": "2", "MinCapacity": "4"}, "network": {"NatMode": "regional"}}.items():
        assert cost.total("dev", {stack: values}) > cost.total("dev") + 10, stack


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_resources_are_those_that_the_checks_of_the_stacks_see(environment):
    """By two readers of the same templates."""
    for name, stack in deployed.stacks(environment).items():
        checked = resolve(name, environment)
        assert set(stack.resources) == set(checked["Resources"]), name
        assert stack.parameters.items() >= {("Environment", environment)}
        for key, value in stack.parameters.items():
            seen = checked["Parameters"][key]
            # What only a deployment knows has a stand-in there.
            assert value in ("", ",".join(seen) if isinstance(seen, list) else str(seen)), f"{name}: {key}"
