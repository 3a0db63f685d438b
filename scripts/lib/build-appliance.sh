#!/usr/bin/env bash
# build-appliance.sh: builds the release binary of the machine image and the packages, without `salebell dev`, and
# prints its path.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --locked --release --no-default-features --bin salebell >&2
binary=${CARGO_TARGET_DIR:-target}/release/salebell
if "$binary" dev --help >/dev/null 2>&1; then
  echo "$binary has the subcommand dev; the feature \`dev\` is for laptops." >&2
  exit 1
fi
echo "$binary"
