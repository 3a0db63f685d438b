#!/usr/bin/env bash
# Fetches the Python packages of tests/clients/requirements.txt into ${XDG_CACHE_HOME:-~/.cache}/salebell/python, unless
# they are there in these versions.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
wanted=tests/clients/requirements.txt
if ! cmp -s "$wanted" "$cache/python.made-from"; then
  echo "==> fetching the Python packages: clients, an AWS, a mail server"
  mkdir -p "$cache"
  rm -rf "$cache/python"
  python3 -m venv "$cache/python"
  "$cache/python/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
  cp "$wanted" "$cache/python.made-from"
fi
