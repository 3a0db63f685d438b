# What the benchmarks of recording share. Sourced after common.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # common.sh has `work` and the rest
offers=${OFFERS:-200000}
rounds=${ROUNDS:-5}

# seed: the database `seeded`, with offers that were seen once.
seed() {
  say "making $offers offers"
  make_database seeded
  run_sql seeded -f benches/ingest-seed.sql -v offers="$offers"
  run_sql seeded -c 'vacuum analyze'
}

# merge: sets rate.
merge() {
  make_database merge seeded
  run_sql merge -c 'create unlogged table seen (store text, sku text, region text, currency text, amount bigint,
    regular bigint, observed_at timestamptz)'
  run_sql merge -Atc "copy (select 'bench', 'sku-' || i, 'ZZ', 'EUR', case when i % 2 = 0 then 999 else 1999 end, 1999,
    '2026-02-01T00:00:00Z' from generate_series(1, $offers) i) to stdout" >"$work/seen.tsv"
  run_sql merge -c "\\copy seen from '$work/seen.tsv'"
  run_sql merge -c 'analyze seen'
  local began ended
  began=$(date +%s%N)
  run_sql merge -f benches/ingest-merge.sql
  ended=$(date +%s%N)
  check merge
  rate=$((offers * 1000000000 / (ended - began)))
}

# Both have written the same, or the comparison is worth nothing.
check() {
  local wrote
  wrote=$(run_sql "$1" -Atc "select (select count(*) from offers where observed_at = '2026-02-01T00:00:00Z'),
    (select count(*) from price_history), (select count(*) from sales), (select count(*) from events)")
  if [ "$wrote" != "$offers|$((offers * 3 / 2))|$((offers / 2))|$((offers / 2))" ]; then
    echo "$1 wrote $wrote" >&2
    exit 1
  fi
}

# compare: `ours`, which sets rate too, and the merge, in turn; sets ratio_to_merge.
compare() {
  local ratios=() round ours_rate
  for round in $(seq "$rounds"); do
    ours
    ours_rate=$rate
    merge
    ratios+=("$(ratio "$ours_rate" "$rate")")
    say "round $round: salebell $ours_rate/s, merge $rate/s, ratio ${ratios[-1]}"
  done
  # shellcheck disable=SC2034 # used by who sources this
  ratio_to_merge=$(median "${ratios[@]}")
}
