#!/usr/bin/env bash
# An instance of the fleet: `salebell boot` (metadata, 40 parameters, two secrets) and then `salebell api` with TLS, the
# bus of AWS and S3, until /readyz says 200. Limits: a median of 400 ms with SSM and Secrets Manager emulated and warm, 48 MiB
# when idle, 40 MB of stripped binary. What the emulator itself takes to answer is measured beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  scripts/lib/prepare-tests.sh
  exec scripts/with-postgres.sh "$0" "$@"
fi
# shellcheck source=benches/common.sh
. benches/common.sh

say "building"
[ -n "${SKIP_BUILD:-}" ] || build_release
make_database boot
"$(scripts/lib/prepare-python.sh)/bin/python" benches/boot.py "$binary" "$(database_url boot)" "${STARTS:-10}"
