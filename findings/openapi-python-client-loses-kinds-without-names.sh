#!/usr/bin/env bash
# openapi-python-client 0.29.1 (PyPI): a schema that is one of several objects, written inside it, is processed again when
# another schema that it refers to comes later. The second time it meets its own models, takes them for duplicates and
# leaves them out; what it generates imports them all the same. The exit code is 0. It does not happen to objects that
# are schemas with names of their own.
#
# Output seen:
#   kinds without names: ModuleNotFoundError: No module named 'unnamed.models.rule_type_0'
#   kinds with names: it can be imported
#
# Exits with 1 when one of them behaves otherwise.
# shellcheck disable=SC2016 # $ref is a word of JSON Schema
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet openapi-python-client==0.29.1
echo 'post_hooks: []' >config.yaml
# document RULE SCHEMAS: an operation whose body is a rule, and further schemas.
document() {
  cat <<END
{"openapi": "3.1.0", "info": {"title": "Watches", "version": "1"}, "paths": {"/watches": {"post": {
  "operationId": "watch", "responses": {"204": {"description": "Done."}},
  "requestBody": {"content": {"application/json": {"schema": {"\$ref": "#/components/schemas/Rule"}}}}}}},
"components": {"schemas": {"Price": {"type": "object", "properties": {"amount": {"\$ref": "#/components/schemas/Text"}}},
  "Rule": {"oneOf": [$1]}, $2 "Text": {"type": "string"}}}}
END
}
# try NAME: generates a client, imports its operation, and prints what Python says.
try() {
  venv/bin/openapi-python-client generate --config config.yaml --path "$1.json" --output-path "$1" --meta none >"$1.log" 2>&1
  if venv/bin/python -c "import $1.api.default.watch" 2>"$1.error"; then echo "it can be imported"; else tail -n 1 "$1.error"; fi
}
any='{"type": "object", "properties": {"any": {"type": "object", "properties": {"of": {"type": "string"}}}}}'
most='{"type": "object", "properties": {"most": {"$ref": "#/components/schemas/Price"}}}'
document "$any, $most" "" >unnamed.json
document '{"$ref": "#/components/schemas/Any"}, {"$ref": "#/components/schemas/Most"}' "\"Any\": $any, \"Most\": $most," >named.json
unnamed=$(try unnamed) named=$(try named)
echo "kinds without names: $unnamed"
echo "kinds with names: $named"
[[ $unnamed == ModuleNotFoundError:*rule_type_0* ]] && [ "$named" = "it can be imported" ]
