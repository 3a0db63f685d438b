#!/usr/bin/env bash
# Prints the folder of the newest PostgreSQL server programs, 15 or newer; fails when there are none.
set -euo pipefail

best=0
folder=
for candidate in "$(dirname "$(command -v postgres || echo /nowhere/postgres)")" \
  /usr/lib/postgresql/*/bin /usr/pgsql-*/bin "$(pg_config --bindir 2>/dev/null || echo /nowhere)"; do
  if ! [ -x "$candidate/postgres" ] || ! [ -x "$candidate/initdb" ]; then
    continue
  fi
  version=$("$candidate/postgres" --version)
  version=${version#postgres (PostgreSQL) }
  major=${version%%[!0-9]*}
  if [ "${major:-0}" -gt "$best" ]; then
    best=$major
    folder=$candidate
  fi
done
if [ "$best" -lt 15 ]; then
  echo "no server programs of PostgreSQL 15 or newer" >&2
  exit 1
fi
echo "$folder"
