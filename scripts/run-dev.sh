#!/usr/bin/env bash
# `make run`: installs what is missing, builds, and becomes `salebell dev` with this script's arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/lib/require-rust.sh
. scripts/lib/require-rust.sh
scripts/install-packages.sh run
echo "==> building (some minutes the first time)"
cargo build --locked --bin salebell
exec cargo run --locked --quiet --bin salebell -- dev "$@"
