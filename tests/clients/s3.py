"""S3 for the tests, on the port that is named. It ends with whoever holds the other side of its standard input."""

import os
import sys
import threading

from moto.server import main


def end_with_parent():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()
main(["--host", "127.0.0.1", "--port", sys.argv[1]])
