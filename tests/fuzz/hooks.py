"""What Schemathesis cannot read in the document (schemathesis.toml names this file)."""

import itertools

import schemathesis

COUNT = itertools.count()


@schemathesis.serializer("application/offset+octet-stream", "application/partial-upload")
def of_bytes(context, value):
    """The bytes that a client sends; Schemathesis knows the serializers of common media types only."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def filter_case(context, case):
    """A header that the document does not name is no fault of a request."""
    return "x-schemathesis-unknown-property" not in (case.headers or {})


@schemathesis.hook
def before_call(context, case, kwargs):
    """A client's idempotency key is its own, and a cursor is of an earlier answer."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f"fuzz-{next(COUNT)}"
    if "cursor" in (case.query or {}):
        del case.query["cursor"]
