#!/usr/bin/env bash
# sqlx-postgres 0.9.0 (crates.io): a URL without a user, such as `postgres:///app`, logs in as "anonymous", whoever runs the
# program. libpq takes the name of the operating system's user, and the documentation of sqlx says that it does, too
# (`PgConnectOptions::username`). It asks whoami 2 for it, with `default-features = false`: without its feature `std` that
# crate knows no operating system, and names everybody "anonymous" without an error. Neither $USER nor the list of users is
# looked at; with peer authentication nobody gets in who does not name a user or set PGUSER.
#
# Output seen:
#   features of whoami that sqlx-postgres 0.9.0 has: none
#   the user is root, and whoami 2.1.3 without features says anonymous
#
# Exits with 1 when one of them behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset CARGO_TARGET_DIR
# project NAME DEPENDENCY
project() {
  mkdir -p "$1/src"
  printf '[package]\nname = "%s"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\n%s\n' "$1" "$2" >"$1/Cargo.toml"
  echo 'fn main() {}' >"$1/src/main.rs"
}
# What it has of whoami is told without compiling it.
project sqlx 'sqlx-postgres = { version = "=0.9.0", default-features = false }'
features=$(cd sqlx && cargo tree --quiet --prefix none --invert whoami --depth 0 --format '{f}')
echo "features of whoami that sqlx-postgres 0.9.0 has: ${features:-none}"
project who 'whoami = { version = "=2.1.3", default-features = false }'
echo 'fn main() { println!("{}", whoami::username().unwrap()) }' >who/src/main.rs
said=$(cd who && cargo run --quiet)
echo "the user is $(id -un), and whoami 2.1.3 without features says $said"
[ -z "$features" ] && [ "$said" = anonymous ]
