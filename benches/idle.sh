#!/usr/bin/env bash
# `salebell api` on a migrated database: from its start to the first 200 of /readyz (limit: a median of 200 ms), and
# the memory that it holds when it has been idle for a few seconds (limit: 40 MiB).
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  exec scripts/with-postgres.sh "$0" "$@"
fi
. benches/common.sh

say "building"
build_release
make_database idle
python3 benches/idle.py "$binary" "$(database_url idle)" "${STARTS:-10}"
