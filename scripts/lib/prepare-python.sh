#!/usr/bin/env bash
# Prints the folder of a Python that has the packages of a list ($1, tests/clients/requirements.txt without one):
# bin/python is in it. It is below ${XDG_CACHE_HOME:-~/.cache}/salebell and made once for each list of packages, so that
# checkouts with different ones do not take it away from each other. One that nobody has asked for in a month goes.
set -euo pipefail
cd "$(dirname "$0")/../.."
wanted=${1:-tests/clients/requirements.txt}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell/pythons
# Programs in it know where it is, and which Python of the machine it was made with.
folder=$cache/$({ python3 --version && cat "$wanted"; } | sha256sum | cut -c -12)
mkdir -p "$cache"
# Two at once: the second one waits, and finds it.
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
