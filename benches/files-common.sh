# What the benchmarks of files share. Sourced after common.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # common.sh has `work`, `database_url` and the rest
megabytes=${MEGABYTES:-2048}
# shellcheck disable=SC2034 # used by who sources this
rounds=${ROUNDS:-3}
export SALEBELL_FILES__DIRECTORY=$work/files SALEBELL_FILES__RESERVE_BYTES=0
export SALEBELL_FILES__MAX_BYTES=$((megabytes << 20)) SALEBELL_FILES__BYTES_PER_ACCOUNT=$((megabytes << 24))
export SALEBELL_SERVER__REQUEST_TIMEOUT_S=600

# make_file: sets `file`, of random bytes.
make_file() {
  file=$work/file
  say "making a file of $megabytes MiB"
  head -c "$((megabytes << 20))" /dev/urandom >"$file"
}

# start_nginx: sets nginx_url and nginx_pids; serves and takes files below $work/nginx.
start_nginx() {
  mkdir -p "$work/nginx/tmp"
  [ "$(id -u)" -ne 0 ] || chmod 755 "$work"
  local port
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  cat >"$work/nginx.conf" <<CONF
worker_processes 2;
pid $work/nginx.pid;
error_log $work/nginx.log;
$([ "$(id -u)" -ne 0 ] || echo "user root;")
events { worker_connections 512; }
http {
  access_log off;
  sendfile on;
  client_max_body_size 0;
  client_body_temp_path $work/nginx/tmp;
  proxy_temp_path $work/nginx/p; fastcgi_temp_path $work/nginx/f; uwsgi_temp_path $work/nginx/u; scgi_temp_path $work/nginx/s;
  server { listen 127.0.0.1:$port; root $work/nginx; location / { dav_methods PUT; } }
}
CONF
  /usr/sbin/nginx -c "$work/nginx.conf"
  nginx_url=http://127.0.0.1:$port
  until curl -s -o /dev/null "$nginx_url/"; do sleep 0.05; done
}

stop_nginx() {
  kill "$(cat "$work/nginx.pid")" 2>/dev/null || true
}

# seconds COMMAND…: how long it takes. What others have left for the disk to write is none of its time.
seconds() {
  local begin end
  sync
  begin=$(date +%s.%N)
  "$@" >/dev/null
  end=$(date +%s.%N)
  awk -v a="$begin" -v b="$end" 'BEGIN { printf "%.3f", b - a }'
}

# cpu PID…: seconds of CPU that processes have used.
cpu() {
  local ticks=0 pid
  for pid in "$@"; do
    ticks=$((ticks + $(awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$pid/stat")))
  done
  awk -v ticks="$ticks" -v hertz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", ticks / hertz }'
}

# peak PID: the most memory that a process has had, in MiB.
peak() { awk '/VmHWM/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }
