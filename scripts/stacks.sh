#!/usr/bin/env bash
# Runs a command of the stacks: `scripts/stacks.sh status --environment=dev`. The first run fetches what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
program=scripts/stacks/$1.py
shift
scripts/install-packages.sh stacks
python=$(scripts/prepare-python.sh scripts/stacks/requirements.txt)/bin/python
exec "$python" "$program" "$@"
