#!/usr/bin/env bash
# prepare-node.sh [PACKAGE.JSON]: prints the folder of the Node packages of that file, for NODE_PATH; the default is
# tests/clients/package.json. Like those of prepare-python.sh, the folder is below ${XDG_CACHE_HOME:-~/.cache}/salebell,
# is made once for each list of packages, and is removed after a month without use.
set -euo pipefail
cd "$(dirname "$0")/../.."
wanted=${1:-tests/clients/package.json}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell/nodes
folder=$cache/$(sha256sum "$wanted" | cut -c -12)
mkdir -p "$cache"
# Of two concurrent runs, the second waits and then finds the folder.
exec 9>"$folder.lock"
flock 9
if ! [ -e "$folder/complete" ]; then
  echo "==> fetching the Node packages of $wanted" >&2
  rm -rf "$folder"
  mkdir "$folder"
  cp "$wanted" "$folder/package.json"
  npm install --prefix "$folder" --no-package-lock --no-audit --no-fund --silent >&2
fi
touch "$folder/complete"
find "$cache" -mindepth 2 -maxdepth 2 -name complete -mtime +30 -printf '%h\0' | xargs -0 -r rm -rf
echo "$folder/node_modules"
