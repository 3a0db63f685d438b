#!/usr/bin/env bash
# `make test`: sets this machine up and runs every check. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/lib/require-rust.sh
. scripts/lib/require-rust.sh
# shellcheck source=scripts/lib/system-programs.sh
. scripts/lib/system-programs.sh
# Before anything is installed: who would rather be root, or on another machine, hears of it now.
# shellcheck source=scripts/lib/describe-machine.sh
. scripts/lib/describe-machine.sh
scripts/install-packages.sh test
scripts/lib/prepare-tests.sh
export SALEBELL_TEST_LEFT_OUT=$left_out SALEBELL_TEST_OF_ROOT=$of_root
exec scripts/with-postgres.sh scripts/lib/run-checks.sh "$@"
