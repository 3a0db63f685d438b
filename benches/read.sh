#!/usr/bin/env bash
# GET /v1/games/{id} for random ids with wrk, against `pgbench -S -M prepared` (which reads a row by its key without
# HTTP) and against a Fastify + pg server doing the same query. Same server, same number of connections, in turn.
# Limits: 0.5 of pgbench, 2 times Fastify.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  export SALEBELL_TEST_POSTGRES_OPTIONS="-c shared_buffers=1GB"
  exec scripts/with-postgres.sh "$0" "$@"
fi
# shellcheck source=benches/common.sh
. benches/common.sh
games=${GAMES:-200000}
connections=${CONNECTIONS:-32}
seconds=${MEASURE_SECONDS:-10}
rounds=${ROUNDS:-3}

say "building"
[ -n "${SKIP_BUILD:-}" ] || build_release
# Outside of the sources, and kept for the next time.
node_folder=${XDG_CACHE_HOME:-$HOME/.cache}/salebell/bench-read
mkdir -p "$node_folder"
[ -d "$node_folder/node_modules/fastify" ] ||
  npm install --prefix "$node_folder" --no-audit --no-fund --silent fastify@5 pg@8 >&2
cp benches/read-fastify.mjs "$node_folder/server.mjs"

say "making $games games"
make_database games
run_sql games -v games="$games" -f benches/read-seed.sql
run_sql games -c 'vacuum (freeze, analyze)'
run_sql games -Atc "select '/v1/games/' || id from games order by random() limit 50000" >"$work/paths"
make_database pgbench
pgbench -i -q -s $(((games + 99999) / 100000)) "$(database_url pgbench)" 2>/dev/null

# measure URL: sets rate, p99 (ms).
measure() {
  local wrong
  read -r _ rate p99 wrong < <(wrk -t 2 -c "$connections" -d "${seconds}s" -s benches/paths.lua "$1" -- "$work/paths" |
    grep '^measured')
  if [ "$wrong" -ne 0 ]; then
    echo "$1 failed $wrong times" >&2
    exit 1
  fi
}

start_fastify() {
  rm -f "$work/fastify.log"
  node "$node_folder/server.mjs" "$(database_url games)" "$connections" >"$work/fastify.log" &
  fastify=$!
  pids_of_salebell+=("$fastify")
  until fastify_url=$(grep -m1 -o 'http://[0-9.:]*' "$work/fastify.log" 2>/dev/null); do sleep 0.05; done
}

rates=() p99s=() pgbench_rates=() fastify_rates=() fastify_p99s=()
for round in $(seq "$rounds"); do
  # One at a time: the others' idle connections would not be nothing.
  start_salebell games api
  measure "$api_url"
  rates+=("$rate") p99s+=("$p99")
  stop_salebell
  pgbench_rates+=("$(pgbench -S -M prepared -c "$connections" -j 2 -T "$seconds" "$(database_url pgbench)" 2>/dev/null |
    awk '/^tps/ { printf "%.0f", $3 }')")
  start_fastify
  measure "$fastify_url"
  fastify_rates+=("$rate") fastify_p99s+=("$p99")
  stop_salebell
  say "round $round: salebell ${rates[-1]}/s (p99 ${p99s[-1]} ms), pgbench ${pgbench_rates[-1]}/s," \
    "Fastify ${fastify_rates[-1]}/s (p99 ${fastify_p99s[-1]} ms)"
done
rate=$(median "${rates[@]}")
say "medians: salebell $rate/s (p99 $(median "${p99s[@]}") ms), pgbench $(median "${pgbench_rates[@]}")/s," \
  "Fastify $(median "${fastify_rates[@]}")/s (p99 $(median "${fastify_p99s[@]}") ms)"
report_ratio "read against pgbench" "$(ratio "$rate" "$(median "${pgbench_rates[@]}")")" 0.5
report_ratio "read against Fastify" "$(ratio "$rate" "$(median "${fastify_rates[@]}")")" 2
