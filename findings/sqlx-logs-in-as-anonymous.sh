#!/usr/bin/env bash
# sqlx-postgres 0.9.0 (crates.io): a URL without a user, such as `postgres:///app`, logs in as "anonymous", whoever runs the
# program. libpq takes the name of the operating system's user, and the documentation of sqlx says that it does, too
# (`PgConnectOptions::username`). It asks whoami 2 for it with `default-features = false`, and without its feature `std` that crate knows no
# operating system and names everybody "anonymous", without an error. Neither $USER nor the list of users is looked at; with
# peer authentication nobody gets in who does not name a user, or set PGUSER.
#
# Output seen:
#   the user is root, sqlx takes anonymous
#
# Exits with 1 when sqlx behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
sqlx-postgres = { version = "=0.9.0", default-features = false }
TOML
cat >src/main.rs <<'RUST'
use std::str::FromStr;

fn main() {
    let options = sqlx_postgres::PgConnectOptions::from_str("postgres:///app").unwrap();
    println!("{}", options.get_username());
}
RUST
unset PGUSER CARGO_TARGET_DIR
export USER LOGNAME
USER=$(id -un)
LOGNAME=$USER
taken=$(cargo run --quiet)
echo "the user is $USER, sqlx takes $taken"
[ "$taken" = anonymous ]
