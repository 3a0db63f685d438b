# shellcheck shell=bash
# Sourced: puts cargo into PATH where rustup left it out, and says what to do where there is none.
if ! command -v cargo >/dev/null 2>&1; then
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  export PATH
fi
if ! command -v cargo >/dev/null 2>&1; then
  echo "Rust is missing; https://rustup.rs has it." >&2
  exit 1
fi
# The queries are checked against .sqlx/, whatever database a .env names.
export SQLX_OFFLINE=true
