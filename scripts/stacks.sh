#!/usr/bin/env bash
# Runs a command of the stacks: `scripts/stacks.sh status --environment=dev` runs scripts/*/status.py. The first run
# fetches what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=(scripts/*/"$1".py)
if [ ${#programs[@]} -ne 1 ] || [ ! -f "${programs[0]}" ]; then
    echo "scripts/*/$1.py is not one file" >&2
    exit 1
fi
shift
scripts/install-packages.sh stacks
python=$(scripts/lib/prepare-python.sh scripts/stacks/requirements.txt)/bin/python
# Folders of the modules that commands in other folders share with those in scripts/stacks.
export PYTHONPATH=scripts/stacks:scripts/lib
exec "$python" scripts/lib/start.py "${programs[0]}" "$@"
