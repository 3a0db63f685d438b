#!/usr/bin/env bash
# 200,000 observations of 200,000 known offers, half of them changes, through HTTP and the worker, against one
# hand-written SQL merge of a COPYed table that makes the same writes. Same server, identical databases, in turn.
# Limit: 0.6 of the merge's rate.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  # Durable, as in production: the tests' server is not.
  export SALEBELL_TEST_POSTGRES_OPTIONS="-c fsync=on -c full_page_writes=on -c max_wal_size=4GB -c shared_buffers=1GB"
  exec scripts/with-postgres.sh "$0" "$@"
fi
. benches/common.sh
# shellcheck source=benches/ingest-common.sh
. benches/ingest-common.sh
streams=${STREAMS:-4}

say "building"
[ -n "${SKIP_BUILD:-}" ] || build_release
seed
run_sql seeded -Atc "copy (
  select json_build_object('store', 'bench', 'sku', 'sku-' || i, 'currency', 'EUR', 'regular_price', '19.99',
    'observed_at', '2026-02-01T00:00:00Z', 'price', case when i % 2 = 0 then '9.99' else '19.99' end)
  from generate_series(1, $offers) i) to stdout" >"$work/observations.ndjson"
split -n "l/$streams" "$work/observations.ndjson" "$work/part-"

ours() {
  make_database ours seeded
  token=$(make_key ours)
  start_salebell ours api
  start_salebell ours worker
  local began ended
  began=$(date +%s%N)
  local pids=()
  for part in "$work"/part-*; do
    curl -sSf -o /dev/null -H "Authorization: Bearer $token" -H 'Content-Type: application/x-ndjson' \
      -T "$part" -X POST "$api_url/v1/prices" &
    pids+=($!)
  done
  wait "${pids[@]}"
  until [ "$(run_sql ours -Atc 'select coalesce(sum(recorded + unchanged), 0) from batch_parts')" -ge "$offers" ]; do
    sleep 0.1
  done
  ended=$(date +%s%N)
  stop_salebell
  check ours
  rate=$((offers * 1000000000 / (ended - began)))
}

compare
report_ratio ingest "$ratio_to_merge" 0.6
