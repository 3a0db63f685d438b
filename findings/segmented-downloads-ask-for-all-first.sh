#!/usr/bin/env bash
# axel 2.17.11-3 and aria2 1.36.0-1 (Debian 12): a client that fetches a file in parts at once asks for all of it first.
# axel sends `Range: bytes=0-`, hangs up after the head of the answer, and asks for the parts on new connections. aria2
# sends no Range at all, goes on reading that answer while it asks for parts, and hangs up where the next part begins. A
# server that counts a download by the request that begins at the first byte, or that promises the bytes of one answer to
# nobody else, refuses them their parts.
#
# Output seen (of 4 MiB in 2 parts):
#   axel: bytes=0- bytes=0-2097151 bytes=2097152-4194303
#   aria2: - bytes=2097152-4194303
#
# Exits with 1 when a client behaves otherwise, and with 2 where its version is not to be had.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq axel=2.17.11-3 aria2=1.36.0-1 libaria2-0=1.36.0-1 libc-ares2 libssh2-1 2> apt.log >&2 || {
  cat apt.log >&2
  exit 2
}
for package in *.deb; do dpkg -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$PWD/root" -name 'libaria2.so.0' | head -n 1)")
export LD_LIBRARY_PATH
cat > server.py <<'PY'
import http.server, socketserver, sys, threading, time

DATA = bytes(4 << 20)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        print(asked or "-", flush=True)
        start, end = 0, len(DATA)
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), int(last) + 1 if last else end
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(DATA)}")
        self.end_headers()
        try:
            # Slowly enough that one connection does not get all before the other begins.
            for at in range(start, end, 1 << 16):
                self.wfile.write(DATA[at : min(end, at + (1 << 16))])
                time.sleep(0.01)
        except OSError:
            self.close_connection = True


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


server = Server(("127.0.0.1", 0), Handler)
with open("port", "w") as port:
    port.write(str(server.server_address[1]))
threading.Thread(target=sys.stdin.read, daemon=True).start()
server.serve_forever()
PY
seen() {
  local name=$1
  shift
  rm -f port out*
  python3 server.py > asked < /dev/null &
  local server=$!
  until [ -s port ]; do sleep 0.1; done
  timeout 60 "$@" "http://127.0.0.1:$(cat port)/x" > client.log 2>&1
  kill "$server"
  wait "$server" 2> /dev/null || true
  echo "$name: $(head -n 1 asked) $(tail -n +2 asked | sort -t= -k2n | tr '\n' ' ')" | sed 's/ $//'
}
axel=$(seen axel root/usr/bin/axel -q -n 2 -o out)
aria2=$(seen aria2 root/usr/bin/aria2c -q -x 2 -s 2 -k 1M -o out)
printf '%s\n%s\n' "$axel" "$aria2"
[ "$axel" = "axel: bytes=0- bytes=0-2097151 bytes=2097152-4194303" ]
[ "$aria2" = "aria2: - bytes=2097152-4194303" ]
