# shellcheck shell=bash
# Sourced, before anything is installed: puts cargo into PATH if rustup did not, and prints what to do if there is none,
# or one that is too old.
if ! command -v cargo >/dev/null 2>&1; then
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  export PATH
fi
if ! command -v cargo >/dev/null 2>&1; then
  echo "Rust is missing; https://rustup.rs has it." >&2
  exit 1
fi
oldest_rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../../Cargo.toml")
this_rust=$(cargo --version) # a rustup without a toolchain fails, and prints what to do
this_rust=$(cut -d ' ' -f 2 <<<"$this_rust")
if [ "$(printf '%s\n' "$oldest_rust" "$this_rust" | sort -V | head -n 1)" != "$oldest_rust" ]; then
  echo "Rust $oldest_rust or newer is needed, and this is $this_rust; \`rustup update\`, or https://rustup.rs." >&2
  exit 1
fi
# The queries are checked against .sqlx/, whatever database an .env file names.
export SQLX_OFFLINE=true
