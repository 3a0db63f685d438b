"""AWS for the tests, at the host and port that are named. It ends with whoever holds the other side of its standard input,
and writes down what the product asks of it (recorder.py)."""

import os
import sys
import threading

import recorder
from moto.server import main


def end_with_parent():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()
recorder.record("instance")
main(["--host", sys.argv[1], "--port", sys.argv[2]])
