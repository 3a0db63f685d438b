#!/usr/bin/env bash
# Fetches what the tests need beyond apt packages: the clients from npm and PyPI that people use, an S3,
# a mail server, Packer, sqlx-cli, clippy and rustfmt. All of it lands outside the clone, under
# ${XDG_CACHE_HOME:-~/.cache}/salebell, and is left alone when it is there in the right version.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/require-rust.sh
. scripts/require-rust.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
mkdir -p "$cache"

# fresh NAME FILE: whether what NAME stands for was made from this very FILE.
fresh() {
  cmp -s "$2" "$cache/$1.made-from"
}

scripts/fetch-packer.sh
scripts/prepare-python.sh
clients=tests/clients
if ! fresh node "$clients/package.json"; then
  echo "==> fetching the Node clients"
  rm -rf "$cache/node"
  mkdir "$cache/node"
  cp "$clients/package.json" "$cache/node/"
  npm install --prefix "$cache/node" --no-package-lock --no-audit --no-fund --silent
  cp "$clients/package.json" "$cache/node.made-from"
fi

sqlx_version=0.9.0
if ! { cargo sqlx --version || "$cache/tools/bin/cargo-sqlx" sqlx --version; } 2>/dev/null | grep -qF "$sqlx_version"; then
  echo "==> building sqlx-cli $sqlx_version"
  # A debug build: it runs for seconds, the compiler would for minutes.
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
