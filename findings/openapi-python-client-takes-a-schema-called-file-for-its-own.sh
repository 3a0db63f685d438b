#!/usr/bin/env bash
# openapi-python-client 0.29.1 (PyPI): a schema with the name `File` becomes a class File, and a binary body uses the
# generator's own class File. An operation that has both imports both under that name, and cannot read its answer.
#
# Output seen:
#   File: AttributeError: type object 'File' has no attribute 'from_dict'
#   StoredFile: its answer can be read
#
# Exits with 1 when one of them behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet openapi-python-client==0.29.1
echo 'post_hooks: []' >config.yaml
# try NAME: generates a client of an upload that answers with a schema of this name, and prints what becomes of an answer.
try() {
  cat >"$1.json" <<END
{"openapi": "3.1.0", "info": {"title": "Files", "version": "1"}, "paths": {"/files": {"post": {"operationId": "upload",
  "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
  "responses": {"201": {"description": "Made.", "content": {"application/json": {"schema": {"\$ref": "#/components/schemas/$1"}}}}}}}},
"components": {"schemas": {"$1": {"type": "object", "properties": {"id": {"type": "string"}}}}}}
END
  venv/bin/openapi-python-client generate --config config.yaml --path "$1.json" --output-path "of_$1" --meta none >"$1.log" 2>&1
  if venv/bin/python - "$1" 2>"$1.error" <<'END'
import importlib, sys
import httpx
package = f"of_{sys.argv[1]}"
upload = importlib.import_module(f"{package}.api.default.upload")
client = importlib.import_module(f"{package}.client").Client(base_url="http://127.0.0.1")
assert upload._parse_response(client=client, response=httpx.Response(201, json={"id": "1"})).id == "1"
END
  then echo "its answer can be read"; else tail -n 1 "$1.error"; fi
}
file=$(try File) stored=$(try StoredFile)
echo "File: $file"
echo "StoredFile: $stored"
[[ $file == AttributeError:*from_dict* ]] && [ "$stored" = "its answer can be read" ]
