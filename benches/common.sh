# What the benchmarks share. Sourced, with SALEBELL_TEST_DATABASE_URL set.
# shellcheck shell=bash
work=$(mktemp -d)
pids_of_salebell=()
trap 'stop_salebell; rm -rf "$work"' EXIT
binary=${CARGO_TARGET_DIR:-target}/release/salebell

say() { echo "[bench] $*" >&2; }

build_release() { SQLX_OFFLINE=true cargo build --release --no-default-features --quiet; } # as the image has it

database_url() { echo "${SALEBELL_TEST_DATABASE_URL%/*}/$1"; }

# run_sql DATABASE PSQL-ARGUMENT…
run_sql() {
  local database=$1
  shift
  psql -X -q -v ON_ERROR_STOP=1 "$(database_url "$database")" "$@"
}

# make_database NAME [TEMPLATE]: anew; migrated, or a copy.
make_database() {
  run_sql postgres -c "drop database if exists $1 with (force)" 2>/dev/null
  if [ $# -gt 1 ]; then
    run_sql postgres -c "create database $1 template $2"
  else
    run_sql postgres -c "create database $1"
    SALEBELL_DATABASE__URL=$(database_url "$1") "$binary" migrate 2>/dev/null
  fi
  run_sql postgres -c checkpoint
}

# make_key DATABASE: prints an API key with every scope.
make_key() {
  SALEBELL_DATABASE__URL=$(database_url "$1") "$binary" key create --name bench --subject bench \
    --scope catalogue:write --scope prices:write --scope operator 2>/dev/null | grep -o 'sbk_[A-Za-z0-9]*'
}

# start_salebell DATABASE api|worker: sets api_url; its log is in $work.
start_salebell() {
  local log=$work/$2.log
  rm -f "$log" # an address of before is none of now
  SALEBELL_DATABASE__URL=$(database_url "$1") SALEBELL_SERVER__LISTEN=127.0.0.1:0 \
    SALEBELL_SERVER__GRPC_LISTEN=127.0.0.1:0 SALEBELL_SERVER__METRICS_LISTEN=127.0.0.1:0 \
    SALEBELL_WORKER__METRICS_LISTEN=127.0.0.1:0 SALEBELL_SERVER__LINGER_S=0 SALEBELL_LOG__TO=stderr \
    SALEBELL_SERVER__RATE_LIMITS__READ=0 SALEBELL_SERVER__RATE_LIMITS__WRITE=0 SALEBELL_SERVER__RATE_LIMITS__HEAVY=0 \
    SALEBELL_WEBHOOK__ALLOW_HTTP=true SALEBELL_WEBHOOK__ALLOW_NETWORKS=127.0.0.0/8 \
    SALEBELL_WEBHOOK__ENCRYPTION_KEYS=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= "$binary" "$2" 2>"$log" &
  pids_of_salebell+=($!)
  if [ "$2" = api ]; then
    until api_url=$(grep -m1 -o 'listening on http://[0-9.:]*' "$log" 2>/dev/null); do sleep 0.02; done
    api_url=${api_url#listening on }
  fi
}

stop_salebell() {
  if [ ${#pids_of_salebell[@]} -gt 0 ]; then
    kill "${pids_of_salebell[@]}" 2>/dev/null || true
    wait "${pids_of_salebell[@]}" 2>/dev/null || true
  fi
  pids_of_salebell=()
}

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

median() { printf '%s\n' "$@" | sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# report_ratio NAME RATIO LIMIT: the last line of every benchmark.
report_ratio() {
  awk -v name="$1" -v ratio="$2" -v limit="$3" 'BEGIN {
    printf "%s: ratio %.2f, limit %.2f: %s\n", name, ratio, limit, (ratio >= limit ? "held" : "MISSED") }'
}
