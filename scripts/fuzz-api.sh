#!/usr/bin/env bash
# `make fuzz-api`: sends a running Salebell the valid and the broken requests that Schemathesis derives from the OpenAPI
# document, and has it check every answer (tests/fuzz/schemathesis.toml). All of it runs on a server of PostgreSQL of its own.
#   --short   a bounded run without chance: some 9,000 requests in 90 seconds on two cores
# Other arguments are those of `schemathesis run`, such as `--include-tag watches` or `--max-examples 1000`.
# It is not part of `make test`, because it always finds two things. The creation of a file by tus or by the draft has no body,
# or not yet, where the document has one (`x-body-optional`), which OpenAPI cannot say. And OPTIONS of a file says which
# protocols there are, whether the file exists or not.
#   SALEBELL_BINARY  the program; without it the debug build is made
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  # shellcheck source=scripts/lib/require-rust.sh
  . scripts/lib/require-rust.sh
  scripts/install-packages.sh test
  exec scripts/with-postgres.sh scripts/fuzz-api.sh "$@"
fi
how=(--max-examples 200)
if [ "${1:-}" = --short ]; then
  how=(--max-examples 10 --generation-deterministic --no-shrink)
  shift
fi
python=$(scripts/lib/prepare-python.sh tests/fuzz/requirements.txt)/bin
if [ -z "${SALEBELL_BINARY:-}" ]; then
  cargo build --locked --quiet --bin salebell
  SALEBELL_BINARY=${CARGO_TARGET_DIR:-target}/debug/salebell
fi
binary=$(realpath "$SALEBELL_BINARY")
root=$PWD

folder=$(mktemp -d)
dev=
clean() {
  if [ -n "$dev" ]; then
    kill "$dev" 2>/dev/null || true
    wait "$dev" || true
  fi
  rm -rf "$folder"
}
trap clean EXIT
cd "$folder"

echo "==> starting Salebell with the sample feed, and giving two accounts a thing of each kind"
# Only their own settings: a user's would change what is tested.
unset "${!SALEBELL_@}" 2>/dev/null || true
export SALEBELL_SERVER__GRPC_LISTEN=127.0.0.1:0 SALEBELL_SERVER__METRICS_LISTEN=127.0.0.1:0
"$binary" dev --database-url "$DATABASE_URL" --listen 127.0.0.1:0 >out 2>log &
dev=$!
until grep -qs '^Salebell is ready' out; do
  if ! kill -0 "$dev" 2>/dev/null; then
    cat out log >&2
    exit 1
  fi
  sleep 0.1
done
url=$(sed -n 's/^ *API  *//p' out)
declare -A tokens
# What operators may read is of every account: only one of the two is an operator.
tokens[anna]=$("$binary" key create --subject anna --scope catalogue:write --scope prices:write --scope operator)
tokens[bert]=$("$binary" key create --subject bert --scope catalogue:write --scope prices:write)
"$python/python" "$root/tests/fuzz/seed.py" "$url" "${tokens[anna]}" anna frostpunk 14.99
"$python/python" "$root/tests/fuzz/seed.py" "$url" "${tokens[bert]}" bert stardew-valley 5.59
export SALEBELL_FUZZ_ACCOUNTS=$folder/accounts.json
cat >accounts.json <<END
{"auth": [
  {"name": "anna", "fixedHeaders": [{"name": "Authorization", "value": "Bearer ${tokens[anna]}"}]},
  {"name": "bert", "fixedHeaders": [{"name": "Authorization", "value": "Bearer ${tokens[bert]}"}]}
]}
END
# Version 3.2 describes the items of streams.
echo "==> schemathesis"
cd "$root/tests/fuzz"
"$python/schemathesis" run "$url/openapi.json?version=3.2" --url "$url" --checks all "${how[@]}" "$@"
