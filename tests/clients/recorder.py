"""Writes down what the product asks of AWS in the tests: a line such as `instance sqs:ReceiveMessage` for each operation,
once, in the file that SALEBELL_TEST_CALLS names. tests/stacks/recorded.py holds the lines against cloudformation/calls.

The product signs what it asks. The tests sign too, where they use a library of AWS: with `app/tests` in the user agent.
"""

import functools
import io
import os
import threading
import urllib.parse


def record(who):
    """From now on each moto server of this process writes down what is asked of it, as calls of the role `who`."""
    file = os.environ.get("SALEBELL_TEST_CALLS")
    if not file:
        return
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    answer, seen, lock = DomainDispatcherApplication.__call__, set(), threading.Lock()

    def answer_and_record(self, environ, start_response):
        call = describe(environ)
        with lock:
            if call and call not in seen:
                seen.add(call)
                with open(file, "a") as lines:
                    lines.write(f"{who} {call}\n")
        return answer(self, environ, start_response)

    DomainDispatcherApplication.__call__ = answer_and_record


def describe(environ):
    """`service:Operation` of a request, or nothing if the product has not sent it."""
    query = dict(urllib.parse.parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    # Credential=KEY/20261129/eu-central-1/sqs/aws4_request
    _, _, credential = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")
    scope = (credential.split(",")[0] or query.get("X-Amz-Credential", "")).split("/")
    agents = environ.get("HTTP_USER_AGENT", ""), environ.get("HTTP_X_AMZ_USER_AGENT", "")
    if len(scope) != 5 or any("app/tests" in agent for agent in agents):
        return None
    service = scope[3]
    if service == "s3":
        return f"s3:{operation_of_s3(environ, query)}"
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return f"{service}:{target.split('.')[-1]}"
    return f"{service}:{dict(urllib.parse.parse_qsl(body(environ))).get('Action') or query.get('Action')}"


def body(environ):
    """The body of a form, which stays there for who comes next."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    text = environ["wsgi.input"].read(length) if length else b""
    environ["wsgi.input"] = io.BytesIO(text)
    return text.decode()


@functools.cache
def operations_of_s3():
    """Method, whether it is about an object, what must be in the query and the headers, and the operation's name."""
    import botocore.session

    model = botocore.session.Session().get_service_model("s3")
    operations = []
    for name in model.operation_names:
        operation = model.operation_model(name)
        path, _, literal = operation.http["requestUri"].partition("?")
        query = {pair.split("=")[0] for pair in literal.split("&") if pair}
        headers = set()
        for member in operation.input_shape.required_members if operation.input_shape else []:
            serialized = operation.input_shape.members[member].serialization
            if serialized.get("location") == "querystring":
                query.add(serialized["name"])
            if serialized.get("location") == "header":
                headers.add(f"HTTP_{serialized['name'].upper().replace('-', '_')}")
        operations.append((operation.http["method"], "{Key" in path, query, headers, name))
    return operations


def operation_of_s3(environ, query):
    """An operation of S3 by the request's method, path, query and headers: the one that asks for the most of them."""
    of_object = "/" in environ["PATH_INFO"].strip("/")
    fitting = [
        (len(keys) + len(headers), name)
        for method, object_too, keys, headers, name in operations_of_s3()
        if method == environ["REQUEST_METHOD"]
        and object_too == of_object
        and keys <= query.keys()
        and headers <= environ.keys()
    ]
    return max(fitting)[1] if fitting else f"{environ['REQUEST_METHOD']}?{'&'.join(sorted(query))}"
