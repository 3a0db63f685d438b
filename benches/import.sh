#!/usr/bin/env bash
# 200,000 observations of 200,000 known offers, half of them changes, as a CSV file in no order, from the import's
# beginning to the last one recorded, against the SQL merge of bench-ingest. Limit: 0.6 of the merge's rate.
# Then a file of 6 GiB: the worker's memory stays below 100 MiB.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  # Durable, as in production: the tests' server is not.
  export SALEBELL_TEST_POSTGRES_OPTIONS="-c fsync=on -c full_page_writes=on -c max_wal_size=4GB -c shared_buffers=1GB"
  exec scripts/with-postgres.sh "$0" "$@"
fi
# shellcheck source=benches/common.sh
. benches/common.sh
# shellcheck source=benches/ingest-common.sh
. benches/ingest-common.sh
megabytes=${MEGABYTES:-6144}
export SALEBELL_FILES__DIRECTORY=$work/files SALEBELL_FILES__RESERVE_BYTES=0
export SALEBELL_FILES__MAX_BYTES=$(((megabytes + 1) << 20)) SALEBELL_FILES__BYTES_PER_ACCOUNT=$((megabytes << 21))

say "building"
[ -n "${SKIP_BUILD:-}" ] || build_release
seed
echo 'store,sku,currency,regular_price,observed_at,price' >"$work/observations.csv"
run_sql seeded -Atc "copy (
  select 'bench', 'sku-' || i, 'EUR', '19.99', '2026-02-01T00:00:00Z', case when i % 2 = 0 then '9.99' else '19.99' end
  from generate_series(1, $offers) i order by hashint4(i)) to stdout csv" >>"$work/observations.csv"

# send_file FILE: sets file_id.
send_file() {
  file_id=$(curl -sSf -H "Authorization: Bearer $token" -T "$1" "$api_url/v1/files/" | grep -o '"id":"[^"]*"' | head -n 1 | cut -d '"' -f 4)
}

# import_file: from the request to the last one recorded; sets import_id.
import_file() {
  import_id=$(curl -sSf -H "Authorization: Bearer $token" -H 'Content-Type: application/json' \
    -d "{\"file_id\": \"$file_id\"}" "$api_url/v1/imports" | grep -o '"id":"[^"]*"' | head -n 1 | cut -d '"' -f 4)
  local now
  while true; do
    now=$(curl -sSf -H "Authorization: Bearer $token" "$api_url/v1/imports/$import_id")
    case $now in
      *'"state":"done"'*) break ;;
      *'"state":"failed"'*) echo "$now" >&2 && exit 1 ;;
    esac
    sleep 0.1
  done
}

ours() {
  make_database ours seeded
  token=$(make_key ours)
  start_salebell ours api
  start_salebell ours worker
  send_file "$work/observations.csv"
  local began ended
  began=$(date +%s%N)
  import_file
  ended=$(date +%s%N)
  stop_salebell
  check ours
  rate=$((offers * 1000000000 / (ended - began)))
}

compare

# Rows of 4 KiB, as those of a shop with long descriptions; no column of ours.
say "making a file of $megabytes MiB"
rows=$((megabytes << 8))
awk -v rows="$rows" -v offers="$offers" 'BEGIN {
  for (i = 0; i < 40; i++) padding = padding "A game of which nobody has ever told the whole story, they say, and which costs less. "
  print "store,sku,currency,regular_price,price,observed_at,description"
  for (row = 0; row < rows; row++)
    printf "bench,sku-%d,EUR,19.99,%s,2026-03-%02dT%02d:%02d:00Z,\"%.4000s\"\n", row * 7919 % offers + 1,
      row % 3 ? "9.99" : "19.99", row / offers % 28 + 1, row % 24, row % 60, padding
}' >"$work/large.csv"
make_database ours seeded
token=$(make_key ours)
start_salebell ours api
start_salebell ours worker
worker=${pids_of_salebell[-1]}
send_file "$work/large.csv"
rm "$work/large.csv"
say "importing it"
import_file
peak=$(awk '/VmHWM/ { printf "%.0f", $2 / 1024 }' "/proc/$worker/status")
accepted=$(run_sql ours -Atc "select accepted from batches where id = '$import_id'")
stop_salebell
if [ "$accepted" != "$rows" ]; then
  echo "$accepted of $rows rows were accepted" >&2
  exit 1
fi
say "$rows rows of $megabytes MiB, the worker's peak $peak MiB"
report_ratio import "$ratio_to_merge" 0.6
report_ratio "memory below 100 MiB" "$(ratio 100 "$peak")" 1.0
