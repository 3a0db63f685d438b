#!/usr/bin/env bash
# One event, 1,000,000 matching watches: to committed notices and deliveries, against one plain SQL insert of the
# same rows. Same server, identical databases, in turn. Limits: 0.8 of the insert's rate, the worker's memory below
# 100 MiB, no transaction longer than 5 s.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  # Durable, as in production: the tests' server is not.
  export SALEBELL_TEST_POSTGRES_OPTIONS="-c fsync=on -c full_page_writes=on -c max_wal_size=8GB -c shared_buffers=1GB"
  exec scripts/with-postgres.sh "$0" "$@"
fi
. benches/common.sh
watches=${WATCHES:-1000000}
rounds=${ROUNDS:-3}

say "building"
build_release
say "making $watches watches"
make_database seeded
run_sql seeded -v watches="$watches" -f benches/fanout-seed.sql
run_sql seeded -c 'vacuum analyze'

# The age of the worker's oldest transaction, in seconds, four times a second; one session, not to be in the way.
watch_transactions() {
  run_sql "$1" -At >>"$work/transactions" 2>/dev/null <<'SQL' || true
select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0) from pg_stat_activity
where application_name = 'salebell' and xact_start is not null
\watch 0.25
SQL
}

ours() {
  make_database ours seeded
  # No channel may be called: what is measured is what the dispatch commits.
  run_sql ours -c "update events set leased_until = 'infinity'"
  start_salebell ours worker
  until grep -qs 'metrics on' "$work/worker.log"; do sleep 0.02; done
  : >"$work/transactions"
  watch_transactions ours &
  local watcher=$!
  local began ended
  began=$(date +%s%N)
  run_sql ours -c "update events set leased_until = null; notify salebell_events"
  # In one session: a new one for every look would be in the way.
  run_sql ours -c "do 'begin
    while exists (select from events where dispatched_at is null) loop perform pg_sleep(0.05); end loop;
  end'"
  ended=$(date +%s%N)
  peak_kib=$(awk '/VmHWM/ { print $2 }' "/proc/${pids_of_salebell[0]}/status")
  pkill -P "$watcher" || true
  wait "$watcher" 2>/dev/null || true
  stop_salebell
  check ours
  rate=$((watches * 1000000000 / (ended - began)))
}

insert() {
  make_database plain seeded
  local began ended
  began=$(date +%s%N)
  run_sql plain -f benches/fanout-insert.sql
  ended=$(date +%s%N)
  check plain
  rate=$((watches * 1000000000 / (ended - began)))
}

check() {
  local wrote
  wrote=$(run_sql "$1" -Atc 'select (select count(*) from notices), (select count(*) from deliveries)')
  if [ "$wrote" != "$watches|$watches" ]; then
    echo "$1 wrote $wrote" >&2
    exit 1
  fi
}

ratios=()
for round in $(seq "$rounds"); do
  ours
  ours_rate=$rate
  longest=$(sort -n "$work/transactions" | tail -n 1)
  insert
  ratios+=("$(ratio "$ours_rate" "$rate")")
  say "round $round: salebell $ours_rate/s, insert $rate/s, ratio ${ratios[-1]}; worker's peak $((peak_kib / 1024)) MiB," \
    "longest transaction $longest s"
  if [ "$peak_kib" -ge $((100 * 1024)) ] || awk -v s="$longest" 'BEGIN { exit !(s >= 5) }'; then
    echo "fanout: memory or transaction limit MISSED" >&2
  fi
done
report_ratio fanout "$(median "${ratios[@]}")" 0.8
