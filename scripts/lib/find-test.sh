#!/usr/bin/env bash
# find-test.sh NAME: compiles the tests of tests/NAME and prints the path of their program.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo test --locked --no-run --test "$1" --message-format=json |
  sed -n 's/.*"name":"'"$1"'".*"test":true.*"executable":"\([^"]*\)".*/\1/p'
