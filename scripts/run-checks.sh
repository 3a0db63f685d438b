#!/usr/bin/env bash
# Every check, the quick ones first. Wants what prepare-tests.sh fetches and the server of with-postgres.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/require-rust.sh
. scripts/require-rust.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
export PATH=$PATH:$cache/tools/bin
# Where tests/it finds the receivers' own libraries.
SALEBELL_TEST_PYTHON=$(scripts/prepare-python.sh)/bin/python
SALEBELL_TEST_NODE_PATH=$(scripts/prepare-node.sh)
export SALEBELL_TEST_PYTHON SALEBELL_TEST_NODE_PATH
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

# The tests that boot instances (tests/it/appliance.rs) want the image; who asks for others does not wait for it.
case "$*" in
  '' | *appliance*)
    step cargo build --locked --bin salebell
    echo "==> baking the image (found again while nothing in it changes)"
    SALEBELL_TEST_IMAGE=$(SALEBELL_BINARY=${CARGO_TARGET_DIR:-target}/debug/salebell scripts/bake-image.sh local)
    export SALEBELL_TEST_IMAGE
    step scripts/check-units.sh "$SALEBELL_TEST_IMAGE"
    step tests/image/break-image.sh "$SALEBELL_TEST_IMAGE"
    ;;
esac
step cargo test --locked "$@"
if [ $# -eq 0 ]; then
  SALEBELL_REHEARSE_IMAGES=$SALEBELL_TEST_IMAGE step scripts/rehearse.sh roll
fi
echo "==> all checks passed"
