#!/usr/bin/env bash
# Prints the folder of a Python environment with the packages of a list ($1, default tests/clients/requirements.txt),
# which contains bin/python. It is below ${XDG_CACHE_HOME:-~/.cache}/salebell and made once for each list of packages,
# so checkouts with different lists do not conflict. A folder is removed after a month without use.
set -euo pipefail
cd "$(dirname "$0")/../.."
wanted=${1:-tests/clients/requirements.txt}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell/pythons
# Its programs contain its path and the Python of the machine with which it was made.
folder=$cache/$({ python3 --version && cat "$wanted"; } | sha256sum | cut -c -12)
mkdir -p "$cache"
# Of two concurrent runs, the second waits and then finds the folder.
exec 9>"$folder.lock"
flock 9
if ! [ -e "$folder/complete" ]; then
  echo "==> fetching the Python packages of $wanted" >&2
  rm -rf "$folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$wanted" >&2
fi
touch "$folder/complete"
find "$cache" -mindepth 2 -maxdepth 2 -name complete -mtime +30 -printf '%h\0' | xargs -0 -r rm -rf
echo "$folder"
