#!/usr/bin/env bash
# 10,000 deliveries to a local sink through the worker, against a bare reqwest loop that sends the same bodies with
# the same concurrency: benches/webhook.rs. Limit: 0.5 of the loop's rate.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  # Durable, as in production: the tests' server is not.
  export SALEBELL_TEST_POSTGRES_OPTIONS="-c fsync=on -c full_page_writes=on -c max_wal_size=4GB -c shared_buffers=1GB"
  exec scripts/with-postgres.sh "$0" "$@"
fi
SQLX_OFFLINE=true cargo bench --quiet --bench webhook
