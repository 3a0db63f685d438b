#!/usr/bin/env bash
# 2 GiB fetched by curl, against nginx with sendfile, in turn. Limits: 0.7 of nginx's rate, 1.5 times its CPU seconds
# (as a ratio: 0.67); memory of the API below 64 MiB.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${SALEBELL_TEST_DATABASE_URL:-}" ] || exec scripts/with-postgres.sh "$0" "$@"
# shellcheck source=benches/common.sh
. benches/common.sh
# shellcheck source=benches/files-common.sh
. benches/files-common.sh

say "building"
[ -n "${SKIP_BUILD:-}" ] || build_release
make_file
make_database download
key=$(make_key download)
start_salebell download api
api=${pids_of_salebell[-1]}
start_nginx
mapfile -t nginx_pids < <(pgrep -P "$(cat "$work/nginx.pid")")
mv "$file" "$work/nginx/file"
content=$(curl -sf -T "$work/nginx/file" -H "Authorization: Bearer $key" "$api_url/v1/files/" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["content"])')

rates=() cpus=() nginx_rates=() nginx_cpus=()
for round in $(seq "$rounds"); do
  before=$(cpu "$api")
  took=$(seconds curl -sf -o /dev/null -H "Authorization: Bearer $key" "$api_url$content")
  rates+=("$(ratio "$megabytes" "$took")") cpus+=("$(awk -v a="$(cpu "$api")" -v b="$before" 'BEGIN { print a - b }')")
  before=$(cpu "${nginx_pids[@]}")
  took=$(seconds curl -sf -o /dev/null "$nginx_url/file")
  nginx_rates+=("$(ratio "$megabytes" "$took")")
  nginx_cpus+=("$(awk -v a="$(cpu "${nginx_pids[@]}")" -v b="$before" 'BEGIN { print a - b }')")
  say "round $round: ${rates[-1]} MiB/s and ${cpus[-1]} s of CPU, nginx ${nginx_rates[-1]} MiB/s and ${nginx_cpus[-1]} s"
done
peak_of_api=$(peak "$api")
stop_nginx
report_ratio "download against nginx" "$(ratio "$(median "${rates[@]}")" "$(median "${nginx_rates[@]}")")" 0.7
report_ratio "CPU of a download against nginx" "$(ratio "$(median "${nginx_cpus[@]}")" "$(median "${cpus[@]}")")" 0.67
report_ratio "memory below 64 MiB" "$(ratio 64 "$peak_of_api")" 1.0
