#!/usr/bin/env bash
# remove-folder.sh FOLDER: removes a folder of a bake, which may hold a root file system with files of many users, and
# ends what still runs in it.
set -euo pipefail
folder=$1
[ -e "$folder" ] || exit 0
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
for pid_file in "$folder"/*.pid; do
  [ -e "$pid_file" ] || continue
  pid=$(cat "$pid_file")
  # The number may be another process's by now.
  if grep -qzF "$folder" "/proc/$pid/cmdline" 2>/dev/null; then
    "${as_root[@]}" kill -KILL "$pid" || true
  fi
done
"${as_root[@]}" rm -rf --one-file-system "$folder"
