#!/usr/bin/env bash
# run-as-root.sh PROGRAM [ARGUMENT…]: runs a program of tests as root, who boots instances, with the settings of tests. By
# sudo where need be: cargo stays the user's own.
set -euo pipefail
if [ "$(id -u)" -eq 0 ]; then
  exec "$@"
fi
mapfile -t settings < <(compgen -e | grep -E '^(SALEBELL_|DATABASE_URL$|AWS_|PATH$|HOME$)' |
  while read -r name; do echo "$name=${!name}"; done)
exec sudo env "${settings[@]}" "$@"
