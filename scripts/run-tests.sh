#!/usr/bin/env bash
# `make test`: sets up this machine and runs every check. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/lib/require-rust.sh
. scripts/lib/require-rust.sh
# shellcheck source=scripts/lib/system-programs.sh
. scripts/lib/system-programs.sh
# Before anything is installed: a user who would rather run it as root, or on another machine, learns of the limits now.
# shellcheck source=scripts/lib/describe-machine.sh
. scripts/lib/describe-machine.sh
scripts/install-packages.sh test
scripts/lib/prepare-tests.sh
export SALEBELL_TEST_LEFT_OUT=$left_out SALEBELL_TEST_OF_ROOT=$of_root
exec scripts/with-postgres.sh scripts/lib/run-checks.sh "$@"
