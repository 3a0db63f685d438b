"""Somebody who calls the API of a machine."""

import http.client
import json
import urllib.error
import urllib.request


class Client:
    def __init__(self, address, token):
        self.base, self.token = f"http://{address}:8080", token

    def at(self, address):
        self.base = f"http://{address}:8080"

    def ask(self, method, path, body=None, headers=None, seconds=30):
        """(status, headers, body); OSError where nobody listens or the connection is cut."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.headers, answer.read()
        except http.client.HTTPException as error:
            raise OSError(error) from error

    def get(self, path):
        status, _, body = self.ask("GET", path)
        assert status == 200, f"{path}: {status} {body}"
        return json.loads(body)

    def items(self, path):
        """All of a list, over its pages."""
        items, cursor = [], ""
        while cursor is not None:
            page = self.get(f"{path}{'&' if '?' in path else '?'}limit=200" + (f"&cursor={cursor}" if cursor else ""))
            items += page["items"]
            cursor = page["next_cursor"]
        return items

    def post(self, path, body, headers=None):
        status, _, answer = self.ask("POST", path, body, headers)
        assert status in (200, 201, 202), f"{path}: {status} {answer}"
        return json.loads(answer)
