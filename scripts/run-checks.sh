#!/usr/bin/env bash
# Every check, the quick ones first. Wants what prepare-tests.sh fetches and the server of with-postgres.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/require-rust.sh
. scripts/require-rust.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
export PATH=$PATH:$cache/tools/bin
# Where tests/it finds the receivers' own libraries.
export SALEBELL_TEST_PYTHON=$cache/python/bin/python
export SALEBELL_TEST_NODE_PATH=$cache/node/node_modules
# For the S3 of the tests, which believes everybody; yours are not used.
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
unset AWS_SESSION_TOKEN AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN

step() {
  echo "==> $*"
  "$@"
}

step cargo fmt --check
mapfile -t shell_files < <(git ls-files '*.sh' .ci/run)
step shellcheck -x "${shell_files[@]}"
step scripts/check-units.sh
step scripts/check-packer.sh
step cargo clippy --locked --all-targets -- -D warnings
# No part of all targets: `cargo test` is not to run it.
step cargo clippy --locked --test rehearse -- -D warnings

echo "==> cargo sqlx prepare --check"
(
  export DATABASE_URL=${DATABASE_URL%/*}/prepare
  unset SQLX_OFFLINE
  cargo sqlx database create
  cargo sqlx migrate run --source migrations
  cargo sqlx prepare --check -- --all-targets
)

step cargo test --locked "$@"

# Who asks for some of the tests does not wait for an image.
if [ $# -eq 0 ]; then
  step cargo build --locked --bin salebell
  echo "==> baking the image (found again while nothing in it changes)"
  image=$(SALEBELL_BINARY=${CARGO_TARGET_DIR:-target}/debug/salebell scripts/bake-image.sh local)
  step tests/image/break-image.sh "$image"
  step scripts/rehearse.sh roll
fi
echo "==> all checks passed"
