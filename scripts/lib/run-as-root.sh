#!/usr/bin/env bash
# run-as-root.sh PROGRAM [ARGUMENT…]: runs a test program as root, which can boot instances, with the settings of tests.
# Uses sudo if necessary, so cargo itself runs as the user.
set -euo pipefail
if [ "$(id -u)" -eq 0 ]; then
  exec "$@"
fi
mapfile -t settings < <(compgen -e | grep -E '^(SALEBELL_|DATABASE_URL$|AWS_|PATH$|HOME$)' |
  while read -r name; do echo "$name=${!name}"; done)
exec sudo env "${settings[@]}" "$@"
