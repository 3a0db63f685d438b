"""Sends bodies that are refused before they have arrived, with the client of Python's standard library.

refused.py URL TOKEN: prints, a line a try, the status that it saw, or the error in its place."""

import http.client
import ssl
import sys
from urllib.parse import urlsplit

url, token = urlsplit(sys.argv[1]), sys.argv[2]
context = ssl._create_unverified_context()
bearer = {"Authorization": "Bearer " + token}
# What is wrong, in the order of the statuses: too large, of no known type, without a token, malformed, unknown.
REQUESTS = [
    ("POST", "/v1/watches", {"Content-Type": "application/json"} | bearer),
    ("POST", "/v1/watches", {"Content-Type": "text/html"} | bearer),
    ("POST", "/v1/prices", {"Content-Type": "application/x-ndjson"}),
    ("POST", "/v1/prices?backfill=what", {"Content-Type": "application/x-ndjson"} | bearer),
    ("PUT", "/v1/nothing", {}),
]
body = b"x" * (5 << 20)
for method, path, headers in REQUESTS:
    for _ in range(4):
        if url.scheme == "https":
            connection = http.client.HTTPSConnection(url.netloc, timeout=20, context=context)
        else:
            connection = http.client.HTTPConnection(url.netloc, timeout=20)
        try:
            connection.request(method, path, body=body, headers=headers)
            print(connection.getresponse().status)
        except OSError as error:
            print(repr(error))
        connection.close()
