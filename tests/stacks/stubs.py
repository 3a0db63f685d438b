"""Starts MiniStack with a stand-in for each type of resource that it does not know and refuses a template for. A stand-in
has an id and attributes, and does nothing: what such a resource is told is asserted on the template instead.

A type that MiniStack has learnt must leave this list: it does not start then.
"""

import sys

# By type: the attributes that templates ask for.
STUBS = {
}


def register(handlers, stubs=None):
    """Adds a handler for each stub. Ends with an error where there is one already."""
    stubs = STUBS if stubs is None else stubs
    if learnt := sorted(set(stubs) & set(handlers)):
        raise SystemExit(f"MiniStack makes {', '.join(learnt)} by now: take them out of {__file__}")
    for kind, attributes in stubs.items():
        handlers[kind] = handler(kind, attributes)


def handler(kind, attributes):
    service = kind.split("::")[1].lower()

    def create(logical_id, properties, stack_name):
        name = f"{stack_name}-{logical_id}"
        arn = f"arn:aws:{service}:eu-central-1:000000000000:{name}"
        return name, {one: arn if one.endswith("Arn") else f"{name}-{one}" for one in attributes}

    def update(physical_id, before, after, stack_name):
        return physical_id, {}

    return {"create": create, "update": update, "delete": lambda physical_id, properties: None}


def main():
    from ministack.app import main as serve
    from ministack.services.cloudformation.provisioners import _RESOURCE_HANDLERS

    register(_RESOURCE_HANDLERS)
    sys.argv[1:] = []
    serve()


if __name__ == "__main__":
    main()
