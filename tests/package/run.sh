#!/usr/bin/env bash
# run.sh DEB IMAGE [PYTEST ARGUMENT…]: the tests of what `make package` makes. The package is installed on booted machines of
# Debian, on a bridge of their own; the image is run by an OCI runtime on this machine, with the PostgreSQL of
# with-postgres.sh. Wants root.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${SALEBELL_RUN_INSIDE:-}" = yes ]; then
  ip link set lo up
  ip link add instances type bridge
  ip address add 10.77.0.1/24 dev instances
  ip link set instances up
  shift 2
  exec "$python" -m pytest -q -x -s -p no:cacheprovider "$@" tests/package/test_[12]_*.py
fi
SALEBELL_TEST_PACKAGE=$(realpath "${1:?the package}")
SALEBELL_TEST_OCI=$(realpath "${2:?the image}")
SALEBELL_TEST_ROOT=$(scripts/run-in-debian.sh root)
python=$(scripts/prepare-python.sh tests/stacks/requirements.txt)/bin/python
export SALEBELL_TEST_PACKAGE SALEBELL_TEST_OCI SALEBELL_TEST_ROOT python PYTHONDONTWRITEBYTECODE=1
# Both wait most of the time.
"$python" -m pytest -q -x -p no:cacheprovider tests/package/test_3_*.py &
image=$!
SALEBELL_RUN_INSIDE=yes unshare --net --mount --propagation private --kill-child "$0" "$@" || {
  kill "$image" 2>/dev/null || true
  exit 1
}
wait "$image"
