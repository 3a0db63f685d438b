#!/usr/bin/env bash
# openapi-python-client 0.29.1 (PyPI): an operation whose body is raw bytes is left out of the client, with a warning and exit
# code 0. OpenAPI 3.1 says that the schema of a binary body may be omitted ("Considerations for File Uploads":
# `application/octet-stream: {}`), and openapi-spec-validator 0.9.0 accepts it; the generator wants a schema
# (`{"type": "string", "format": "binary"}`), which says nothing more. A media type of `*/*` does not help either.
#
# Output seen:
#   the document is valid
#   without a schema: download
#   with a schema: download upload
#
# Exits with 1 when one of them behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet openapi-python-client==0.29.1 openapi-spec-validator==0.9.0
export PATH=$folder/venv/bin:$PATH
# document BODY: an upload with this body, and an operation without one.
document() {
  cat <<END
{"openapi": "3.1.0", "info": {"title": "Files", "version": "1"}, "paths": {"/files": {
  "get": {"operationId": "download", "responses": {"204": {"description": "Nothing."}}},
  "post": {"operationId": "upload", "requestBody": {"required": true, "content": {"application/octet-stream": $1}},
           "responses": {"204": {"description": "Done."}}}}}}
END
}
# operations NAME: generates a client, and prints its operations.
operations() {
  openapi-python-client generate --path "$1.json" --output-path "$1" --meta none >"$1.log" 2>&1
  find "$1/api/default" -name '[a-z]*.py' -printf '%f\n' | sed 's/\.py$//' | sort | paste -sd' '
}
document '{}' >without.json
document '{"schema": {"type": "string", "format": "binary"}}' >with.json
openapi-spec-validator without.json >/dev/null && echo "the document is valid"
without=$(operations without) with=$(operations with)
echo "without a schema: $without"
echo "with a schema: $with"
[ "$without" = download ] && [ "$with" = "download upload" ]
