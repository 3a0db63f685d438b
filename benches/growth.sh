#!/usr/bin/env bash
# What lists, deals, history and search cost on ten times the catalogue: the p99 of a mix of queries, on both in
# turn. Limit: 1.5 times.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  export SALEBELL_TEST_POSTGRES_OPTIONS="-c shared_buffers=2GB -c max_wal_size=8GB"
  exec scripts/with-postgres.sh "$0" "$@"
fi
# shellcheck source=benches/common.sh
. benches/common.sh
games=${GAMES:-10000}
connections=${CONNECTIONS:-4}
seconds=${MEASURE_SECONDS:-8}
rounds=${ROUNDS:-3}

[ -n "${SKIP_BUILD:-}" ] || build_release
declare -A sizes=([small]="$games" [large]=$((10 * games)))
for name in small large; do
  say "making ${sizes[$name]} games, $((10 * sizes[$name])) offers, $((50 * sizes[$name])) prices"
  make_database $name
  run_sql $name -v games="${sizes[$name]}" -f benches/catalogue.sql >/dev/null
  run_sql $name -c 'vacuum (freeze, analyze)'
  # What people ask for: half of it of one of the twenty stores or of one of the ten regions.
  run_sql $name -At >"$work/$name-deals" <<'SQL'
select '/v1/deals?sort=' || sort || scope || filter
from unnest('{cut,price,newest}'::text[]) sort,
  unnest('{"",&region=DE,&region=US&currency=USD,&store=store-7,&store=store-12&region=GB,&currency=EUR}'::text[]) scope,
  unnest('{"",&min_cut=50,&platform=windows,&platform=switch,&new_low=true}'::text[]) filter;
SQL
  run_sql $name -At >"$work/$name-lists" <<'SQL'
(select '/v1/games?limit=' || n from generate_series(10, 100, 10) n)
union all select '/v1/offers?store=store-' || n from generate_series(1, 20) n
union all select '/v1/offers?region=' || region from unnest('{ZZ,DE,US,GB,FR}'::text[]) region
union all (select '/v1/games/' || id || '/offers' from games order by random() limit 100);
SQL
  run_sql $name -At >"$work/$name-history" <<'SQL'
(select '/v1/games/' || id || '/prices' || query
from games, unnest('{"",?resolution=day,?resolution=month,?since=2026-04-01T00:00:00Z&store=store-7}'::text[]) query
order by random() limit 2000);
SQL
  run_sql $name -At >"$work/$name-search" <<'SQL'
(select '/v1/games?q=' || replace(normalised_title, ' ', '+') from games order by random() limit 300)
union all (select '/v1/games?q=' || split_part(normalised_title, ' ', 1) from games order by random() limit 300)
-- with a slip: two letters of the second word swapped
union all (select '/v1/games?q=' || regexp_replace(split_part(normalised_title, ' ', 2), '^(.)(.)(.)', '\1\3\2')
  from games order by random() limit 300);
SQL
done

for kind in deals lists history search; do
  declare -A p99s=([small]="" [large]="")
  for round in $(seq "$rounds"); do
    for name in small large; do
      start_salebell $name api
      # Once unmeasured: what is asked for often is in memory.
      wrk -t 1 -c "$connections" -d 3s -s benches/paths.lua "$api_url" -- "$work/$name-$kind" >/dev/null
      read -r _ rate p99 wrong < <(wrk -t 1 -c "$connections" -d "${seconds}s" -s benches/paths.lua "$api_url" -- \
        "$work/$name-$kind" | grep '^measured')
      stop_salebell
      if [ "$wrong" -ne 0 ]; then
        echo "$kind failed $wrong times on $name" >&2
        exit 1
      fi
      p99s[$name]+=" $p99"
      say "$kind, round $round, $name: $rate/s, p99 $p99 ms"
    done
  done
  # shellcheck disable=SC2086 # words are what is wanted
  small=$(median ${p99s[small]}) large=$(median ${p99s[large]})
  awk -v kind="$kind" -v small="$small" -v large="$large" 'BEGIN {
    printf "growth of %s: p99 %.1f ms, on ten times the data %.1f ms: ratio %.2f, limit 1.50: %s\n",
      kind, small, large, large / small, (large / small < 1.5 ? "held" : "MISSED") }'
done
