"""The templates as they are in one environment: the values of their parameters, and the resources whose conditions hold.

Neither account nor network is queried: values that only AWS knows stay as the template has them.
"""

import functools

import templates

BOTH = {"Fn::And": all, "Fn::Or": any}


class Deployed:
    """The template `name` as an environment has it. `resources` by their logical ids, `parameters` by their names, as text."""

    def __init__(self, name, template, environment, given):
        given = {**given.get("all", {}), **given.get(name, {}), "Environment": environment}
        declared = template.get("Parameters") or {}
        self.parameters = {key: str(given.get(key, one.get("Default", ""))) for key, one in declared.items()}
        self.conditions = template.get("Conditions") or {}
        made = {key: one for key, one in template["Resources"].items() if self.holds(one.get("Condition"))}
        self.resources = {key: self.plain(one) for key, one in made.items()}
        self.outputs = self.plain(template.get("Outputs") or {})

    def holds(self, condition):
        return condition is None or self.plain(self.conditions[condition])

    def plain(self, node):
        """`node` with parameters put in and conditions decided; what is nothing then is left out."""
        if isinstance(node, list):
            return [one for one in map(self.plain, node) if one is not None]
        if not isinstance(node, dict):
            return node
        (function, argument), *more = node.items() if node else [(None, None)]
        if more or function is None:
            pass
        elif function == "Ref" and (argument in self.parameters or argument == "AWS::NoValue"):
            return self.parameters.get(argument)
        elif function == "Condition" and argument in self.conditions:
            return self.holds(argument)
        elif function == "Fn::If":
            return self.plain(argument[1 if self.holds(argument[0]) else 2])
        elif function == "Fn::Equals":
            return str(self.plain(argument[0])) == str(self.plain(argument[1]))
        elif function == "Fn::Not":
            return not self.plain(argument[0])
        elif function in BOTH:
            return BOTH[function](map(self.plain, argument))
        return {key: value for key, one in node.items() if (value := self.plain(one)) is not None}

    def of(self, kind):
        """The properties of all resources of a type."""
        return [one.get("Properties", {}) for one in self.resources.values() if one["Type"] == kind]


# Reading all of them takes seconds.
@functools.cache
def read():
    return templates.stacks()


def stacks(environment, changed=None):
    """All stacks of an environment by their names, in the order in which they are deployed; `tools` is that of the pipelines.
    `changed` are values by stack that go before those of its file."""
    given = templates.values(environment)
    for stack, values in (changed or {}).items():
        given[stack] = {**given.get(stack, {}), **values}
    found = {name: one for name, one in read().items() if (name in templates.TOOLS) == (environment == "tools")}
    return {name: Deployed(name, one, environment, given) for name, one in found.items()}
