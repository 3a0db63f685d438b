"""The tables of cloudformation/calls: what each role calls on AWS.

A table names the template and the role; a call has an action, the ARNs of what it is about (`*` without them) and the
condition keys that come with it:

    template: 60-service
    role: InstanceRole
    calls:
      - { action: sqs:ReceiveMessage, resources: ["${bus.PricesQueueArn}"], when: "a worker is idle" }
      - { action: kms:Decrypt, resources: ["${foundation.BusKeyArn}"],
          context: { "kms:ViaService": "sqs.${Region}.amazonaws.com" } }
    deny:
      - { action: sqs:PurgeQueue, resources: ["${bus.PricesQueueArn}"] }

`${Region}`, `${Account}`, `${Environment}`, `${ToolsAccount}` and the other accounts, and `${stack.OutputName}`, or `${stack.LogicalId}` for an ARN, are filled in for
each environment. A call of an output that the environment has not is none there. `when` is for people, and `shared` says why
a call may be about another environment's thing, too.
"""

import dataclasses
import functools
import re

import services
import yaml
from access import World
from resolve import ACCOUNTS, REGION
from stacks import switched

ALL = tuple(ACCOUNTS.keys() - {"tools"})
# Dev and prod differ in most switches; stage is between them.
ENVIRONMENTS = ("dev", "prod")


@dataclasses.dataclass(frozen=True)
class Call:
    """A call as it is in one environment."""

    action: str
    resource: str
    context: tuple
    # Why it may be about another environment's, too.
    shared: str = ""
    # Where in the table it is.
    line: tuple = dataclasses.field(default=(), compare=False)

    def __str__(self):
        context = "".join(f", {key} {value}" for key, value in self.context)
        return f"{self.action} on {self.resource}{context}"


class Table:
    """One file of cloudformation/calls."""

    def __init__(self, path):
        self.name = path.stem
        self.content = yaml.safe_load(path.read_text())
        self.stack = re.sub(r"^\d\d-|\.yaml$", "", str(self.content["template"]))
        self.role = f"{self.stack}/{self.content['role']}"

    @functools.cache
    def calls(self, world, key="calls"):
        """The calls that there are in an environment."""
        found = []
        for number, line in enumerate(self.lines(key)):
            for resource in line.get("resources") or ["*"]:
                try:
                    resource = fill(resource, world, self.stack)
                    context = {fill(k, world, self.stack): fill(v, world, self.stack) for k, v in (line.get("context") or {}).items()}
                except NotThere:
                    continue
                # A call is about one thing: a star of the table stands for any.
                resource = resource if resource == "*" else resource.replace("*", "any")
                found.append(Call(line["action"], resource, tuple(context.items()), line.get("shared", ""), (key, number)))
        return found

    @property
    def names(self):
        """What it names of the stacks, as pairs of a stack and an output."""
        return {tuple(name.split(".", 1)) for name in re.findall(r"\$\{(\w+\.\w+)\}", str(self.content))}

    def lines(self, key="calls"):
        """Each call of the table, as it is written."""
        return self.content.get(key) or []


class NotThere(LookupError):
    """An output that the environment does not have."""


def fill(text, world, stack):
    """A text of a table with its placeholders filled in."""
    own, parameters = world.stacks[stack]["Account"], world.stacks[stack]["Parameters"]
    known = {"Region": REGION, "Account": own, "Environment": world.environment, "Partition": "aws"}
    # Parameters that name an account are empty where it is the own one.
    known |= {name: parameters.get(name) or own for name in ("ToolsAccount", "PeopleAccount")}
    known |= {name: parameters.get(name) or own for name in ("DevAccount", "StageAccount", "ProdAccount")}
    known |= {f"AWS::{name}": value for name, value in known.items()} | {"AWS::AccountId": known["Account"]}

    def one(match):
        name = match[1]
        if name in known:
            return known[name]
        found = world.named(*name.split(".", 1)) if "." in name else None
        if found is None:
            raise NotThere(name)
        return str(found)

    if isinstance(text, bool):
        return str(text).lower()
    return re.sub(r"\$\{([^}]+)\}", one, str(text))


@functools.cache
def tables(folder):
    """All tables by the role that they are of."""
    found = [Table(path) for path in sorted((folder / "calls").glob("*.yaml"))]
    return {table.role: table for table in found}


_worlds, _known = {}, {}


def worlds(stacks):
    """Each environment with other policies: dev and prod, and prod with each switch the other way, as (label, world)."""
    if stacks not in _worlds:
        names = set().union(*(table.names for table in tables(stacks.folder).values()))
        found = {}
        for environment, switch in [*((one, {}) for one in ENVIRONMENTS), *(("prod", one) for one in stacks.switches())]:
            accounts = {name: value for name, value in switch.items() if name.endswith("Account")}
            elsewhere = [stacks.resolved(one, **accounts) for one in ALL if one != environment]
            world = World(environment, stacks.resolved(environment, **switch), elsewhere)
            label = f"{environment} with {switched(switch)}" if switch else environment
            fingerprint = world.fingerprint(names), *services.deeds(world), *services.faults(world)
            found.setdefault(fingerprint, (label, world))
        # The same policies in other templates, as in a mutant, are the same world: what was found in it is known.
        _worlds[stacks] = [_known.setdefault(fingerprint, one) for fingerprint, one in found.items()]
    return _worlds[stacks]
