#!/usr/bin/env bash
# with-postgres.sh COMMAND…: runs the command beside a temporary PostgreSQL server of its own. The command finds it in
# DATABASE_URL and SALEBELL_TEST_DATABASE_URL (superuser, 127.0.0.1, a password). Fast but not durable: fsync is off.
# SALEBELL_TEST_POSTGRES_OPTIONS is added to the server's arguments.
set -euo pipefail
bin=$("$(dirname "$0")/lib/find-postgres.sh")

# PostgreSQL refuses to run as root.
as_user=()
if [ "$(id -u)" -eq 0 ]; then
  if ! id postgres >/dev/null 2>&1; then
    echo "root needs a user postgres to run the server as" >&2
    exit 1
  fi
  as_user=(setpriv --reuid=postgres --regid="$(id -g postgres)" --clear-groups)
fi

remove_server() {
  local folder=$1
  if [ -e "$folder/data/postmaster.pid" ]; then
    (cd / && "${as_user[@]}" "$bin/pg_ctl" -D "$folder/data" -m immediate -s -w stop) || true
  fi
  rm -rf "$folder"
}

# Leftovers of an earlier run that was killed before its cleanup.
for old in /tmp/salebell-postgres.*; do
  if [ -O "$old" ] && [ -e "$old/runner" ] && ! kill -0 "$(cat "$old/runner")" 2>/dev/null; then
    remove_server "$old"
  fi
done

folder=$(mktemp -d /tmp/salebell-postgres.XXXXXX)
trap 'remove_server "$folder"' EXIT
echo $$ >"$folder/runner"
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
(umask 077 && echo "$password" >"$folder/password")
if [ ${#as_user[@]} -gt 0 ]; then
  # The folder keeps its owner, so no other user can remove it; the server works below it.
  mkdir -m 700 "$folder/data" "$folder/socket"
  chown postgres: "$folder/data" "$folder/socket" "$folder/password"
  chmod 711 "$folder"
else
  mkdir -m 700 "$folder/socket"
fi
cd / # a folder that the server's user may enter
"${as_user[@]}" "$bin/initdb" --no-sync --auth=scram-sha-256 --username=salebell --pwfile="$folder/password" \
  --encoding=UTF8 --locale=C.UTF-8 -D "$folder/data" >/dev/null

for attempt in 1 2 3 4 5; do
  port=$((15000 + (RANDOM % 16000)))
  options="-c port=$port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$folder/socket \
-c fsync=off -c full_page_writes=off -c max_connections=500 -c shared_buffers=256MB -c lc_messages=C -c timezone=UTC"
  if "${as_user[@]}" "$bin/pg_ctl" -D "$folder/data" -s -w -t 60 \
    -o "$options ${SALEBELL_TEST_POSTGRES_OPTIONS:-}" -l "$folder/data/server.log" start; then
    break
  elif [ "$attempt" -eq 5 ]; then
    tail -n 20 "$folder/data/server.log" >&2
    exit 1
  fi
done
cd "$OLDPWD"

export DATABASE_URL="postgres://salebell:$password@127.0.0.1:$port/postgres"
export SALEBELL_TEST_DATABASE_URL=$DATABASE_URL
"$@"
