#!/usr/bin/env bash
# Fetches what the tests need beyond apt packages: widely used clients from npm and PyPI, an S3, a mail server, the
# checkers of the stacks, Packer, sqlx-cli, clippy and rustfmt. All of it is installed outside the clone, under
# ${XDG_CACHE_HOME:-~/.cache}/salebell, and kept if the right version is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib/require-rust.sh
. scripts/lib/require-rust.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
mkdir -p "$cache"

scripts/lib/fetch-packer.sh
scripts/lib/prepare-python.sh >/dev/null
scripts/lib/prepare-python.sh tests/stacks/requirements.txt >/dev/null
scripts/lib/prepare-node.sh >/dev/null
scripts/lib/prepare-node.sh tests/stacks/package.json >/dev/null
npm_config_omit=peer scripts/lib/prepare-node.sh tests/stacks/control-tower.json >/dev/null

sqlx_version=0.9.0
if ! { cargo sqlx --version || "$cache/tools/bin/cargo-sqlx" sqlx --version; } 2>/dev/null | grep -qF "$sqlx_version"; then
  echo "==> building sqlx-cli $sqlx_version"
  # A debug build: it runs for seconds, while an optimized build would take minutes.
  cargo install --quiet --locked --debug --root "$cache/tools" --target-dir "$cache/sqlx-cli-build" \
    --no-default-features --features postgres,rustls --version "$sqlx_version" sqlx-cli
  rm -rf "$cache/sqlx-cli-build"
fi
for component in clippy rustfmt; do
  if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
    echo "==> adding $component"
    rustup component add "$component"
  fi
done
