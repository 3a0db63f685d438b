#!/usr/bin/env bash
# `aws sns subscribe --endpoint URL` sends a signed request to that URL, in place of subscribing it.
#
# Versions: awscli 1.46.3 (PyPI), Python 3.11.
# Behaviour: SNS's Subscribe has a parameter `Endpoint`, so `--endpoint` is what one types. The command calls it
# `--notification-endpoint`, and takes `--endpoint` for an abbreviation of the global `--endpoint-url`. There is no message about
# it: the whole call goes to the subscriber, with its Authorization header and, for a role, the session token.
# Seen on 2026-11-29:
#   the subscriber has received POST / with an Authorization of ASIAEXAMPLE and the token "a-session-token"
# Consequence: a page that says `aws sns subscribe … --endpoint https://hooks.example.com/x` hands a token to whoever runs that
# host, for as long as the token is good together with its signature, and the alarm's topic has no subscriber. The same holds
# for every command whose API has an Endpoint. Options are checked against the command's own tables, without abbreviations.
#
# Ends with 0 while that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet awscli==1.46.3
cat > "$folder/subscriber.py" <<'PYTHON'
import http.server, json, pathlib, sys

class Subscriber(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        seen = {"line": f"{self.command} {self.path}", **{name.lower(): value for name, value in self.headers.items()}}
        pathlib.Path(sys.argv[1], "seen.json").write_text(json.dumps(seen))
        self.send_response(403)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Subscriber)
pathlib.Path(sys.argv[1], "port").write_text(str(server.server_port))
server.serve_forever()
PYTHON
python3 "$folder/subscriber.py" "$folder" &
server=$!
until [ -s "$folder/port" ]; do sleep 0.1; done
env AWS_ACCESS_KEY_ID=ASIAEXAMPLE AWS_SECRET_ACCESS_KEY=secret AWS_SESSION_TOKEN=a-session-token \
  AWS_DEFAULT_REGION=eu-central-1 AWS_MAX_ATTEMPTS=1 AWS_EC2_METADATA_DISABLED=true \
  "$folder/env/bin/aws" sns subscribe --protocol http --topic-arn arn:aws:sns:eu-central-1:111122223333:alarms \
  --endpoint "http://127.0.0.1:$(cat "$folder/port")/" >/dev/null 2>&1 || true
python3 - "$folder" <<'PYTHON'
import json, pathlib, sys
path = pathlib.Path(sys.argv[1], "seen.json")
assert path.exists(), "the behaviour has changed: nobody has called the subscriber"
seen = json.loads(path.read_text())
assert "ASIAEXAMPLE" in seen["authorization"] and seen["x-amz-security-token"] == "a-session-token", "the behaviour has changed"
print(f'the subscriber has received {seen["line"]} with an Authorization of ASIAEXAMPLE and the token "{seen["x-amz-security-token"]}"')
PYTHON
