"""Verifies one webhook with the `standardwebhooks` package of PyPI, as a receiver would.

Reads {"secret", "headers", "body"} from stdin, and prints the type of the message when its signature is right.
"""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

received = json.load(sys.stdin)
try:
    message = Webhook(received["secret"]).verify(received["body"].encode(), received["headers"])
except WebhookVerificationError as error:
    sys.exit(f"refused: {error}")
print(message["type"])
