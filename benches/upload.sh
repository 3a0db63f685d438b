#!/usr/bin/env bash
# 2 GiB in one PATCH of tus, against @tus/server with its file store and against a PUT to nginx's DAV, in turn. Ours is on
# the disk for good and hashed when it is acknowledged, theirs is neither; what the disk alone takes is told beside it (a
# folder in memory, TMPDIR=/dev/shm, takes the disk out of it). Limits: 1.5 times @tus/server, 1.0 of nginx;
# memory of the API below 64 MiB, and below 200 MiB with 200 uploads at once.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${SALEBELL_TEST_DATABASE_URL:-}" ] || exec scripts/with-postgres.sh "$0" "$@"
# shellcheck source=benches/common.sh
. benches/common.sh
# shellcheck source=benches/files-common.sh
. benches/files-common.sh

say "building"
[ -n "${SKIP_BUILD:-}" ] || build_release
node_folder=${XDG_CACHE_HOME:-$HOME/.cache}/salebell/bench-tus
mkdir -p "$node_folder"
[ -d "$node_folder/node_modules/@tus/server" ] ||
  npm install --prefix "$node_folder" --no-audit --no-fund --silent @tus/server@2 @tus/file-store@2 >&2
cp benches/tus-server.mjs "$node_folder/server.mjs"
make_file
make_database upload
key=$(make_key upload)
start_salebell upload api
api=${pids_of_salebell[-1]}
mkdir -p "$work/tus"
node "$node_folder/server.mjs" "$work/tus" >"$work/tus.log" &
pids_of_salebell+=($!)
until tus_url=$(grep -m1 -o 'http://[0-9.:]*/files' "$work/tus.log" 2>/dev/null); do sleep 0.05; done
start_nginx

# send_tus URL [HEADER]: creates an upload and sends the file in one PATCH.
send_tus() {
  local address
  address=$(curl -sf -o /dev/null -D - -X POST -H "Tus-Resumable: 1.0.0" -H "Upload-Length: $((megabytes << 20))" \
    ${2:+-H "$2"} "$1" | tr -d '\r' | awk 'tolower($1) == "location:" { print $2 }')
  case $address in /*) address=${1%%/v1/*}$address ;; esac
  curl -sf -X PATCH -T "$file" -H "Tus-Resumable: 1.0.0" -H "Upload-Offset: 0" -H "Expect:" \
    -H "Content-Type: application/offset+octet-stream" ${2:+-H "$2"} "$address"
}

ours=() tus=() nginx=() disk=()
for round in $(seq "$rounds"); do
  ours+=("$(seconds send_tus "$api_url/v1/files" "Authorization: Bearer $key")")
  tus+=("$(seconds send_tus "$tus_url")")
  rm -rf "${work:?}/tus"/*
  nginx+=("$(seconds curl -sf -T "$file" -H "Expect:" "$nginx_url/file")")
  rm -f "$work/nginx/file"
  disk+=("$(seconds dd if="$file" of="$work/copy" bs=1M conv=fsync status=none)")
  rm -f "$work/copy"
  say "round $round: ${ours[-1]} s, @tus/server ${tus[-1]} s, nginx ${nginx[-1]} s; a copy that is on the disk for good" \
    "${disk[-1]} s; the API's peak $(peak "$api") MiB"
done
peak_of_api=$(peak "$api")
stop_nginx
stop_salebell

# Each takes at least eight seconds, so that all are there at once.
say "200 uploads of 16 MiB at once"
truncate -s 16M "$file"
SALEBELL_FILES__UPLOADS_IN_FLIGHT_PER_ACCOUNT=200 start_salebell upload api
api=${pids_of_salebell[-1]}
for number in $(seq 200); do
  printf 'url = "%s/v1/files/%s"\nupload-file = "%s"\noutput = "/dev/null"\n' "$api_url" "$number" "$file"
done >"$work/uploads"
curl -sSf --parallel --parallel-immediate --parallel-max 200 --limit-rate 2M -H "Authorization: Bearer $key" \
  -H "Expect:" -K "$work/uploads" &
sending=$!
most=0
while kill -0 "$sending" 2>/dev/null; do
  now=$(run_sql upload -Atc "select count(*) from files where state = 'uploading' and name ~ '^[0-9]+$'")
  most=$((now > most ? now : most))
  sleep 0.5
done
wait "$sending"
peak_of_many=$(peak "$api")
say "$most at once; the API's peak $peak_of_many MiB"
if [ "$most" -lt 200 ]; then
  echo "no more than $most were there at once" >&2
  exit 1
fi
# shellcheck disable=SC2086 # words are what is wanted
our=$(median "${ours[@]}")
report_ratio "upload against @tus/server" "$(ratio "$(median "${tus[@]}")" "$our")" 1.5
report_ratio "upload against nginx" "$(ratio "$(median "${nginx[@]}")" "$our")" 1.0
echo "a mere copy that is on the disk for good takes $(ratio "$(median "${disk[@]}")" "$our") of our time"
report_ratio "memory below 64 MiB" "$(ratio 64 "$peak_of_api")" 1.0
report_ratio "memory of 200 uploads below 200 MiB" "$(ratio 200 "$peak_of_many")" 1.0
