"""Starts a Python command: `start.py scripts/rollout/rollout.py --environment=dev`. Importing its modules takes most of a second, in
which Ctrl-C ends it silently instead of with a traceback: nothing has begun yet. From then on stopping.py decides."""

import os
import runpy
import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
