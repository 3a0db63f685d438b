#!/usr/bin/env bash
# `make test`: sets this machine up and runs every check. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-packages.sh test
scripts/prepare-tests.sh
# shellcheck source=scripts/require-rust.sh
. scripts/require-rust.sh
exec scripts/with-postgres.sh scripts/run-checks.sh "$@"
