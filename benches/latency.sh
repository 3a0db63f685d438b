#!/usr/bin/env bash
# From the POST of a price to the arrival of its webhook, on an idle system: API and worker as processes of their
# own, 200 sales one after another. Limit: a median of 100 ms.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  export SALEBELL_TEST_POSTGRES_OPTIONS="-c fsync=on -c full_page_writes=on"
  exec scripts/with-postgres.sh "$0" "$@"
fi
. benches/common.sh

say "building"
build_release
make_database ours
token=$(make_key ours)
# Its sales are of long ago, and seconds apart.
export SALEBELL_PRICES__RINGS_WITHIN_S=4000000000 SALEBELL_PRICES__SAME_SALE_WITHIN_S=0
start_salebell ours api
start_salebell ours worker
python3 benches/latency.py "$api_url" "$token" "${SALES:-200}"
