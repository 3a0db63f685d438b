#!/usr/bin/env bash
# run.sh DEB IMAGE [PYTEST ARGUMENT…]: the tests of what `make package` makes, with SALEBELL_PACKAGE_QUICK. The package is
# installed on booted machines of Debian, on a bridge of their own; the image is run by an OCI runtime, beside a PostgreSQL of
# its own. These parts are root's, or sudo's.
set -euo pipefail
cd "$(dirname "$0")/../.."
SALEBELL_TEST_PYTHON=$(scripts/lib/prepare-python.sh tests/stacks/requirements.txt)/bin/python
pytest=("$SALEBELL_TEST_PYTHON" -B -m pytest -q -x -p no:cacheprovider)

# What runs inside of namespaces, which end with it.
case ${SALEBELL_RUN_INSIDE:-} in
  machines)
    ip link set lo up
    ip link add instances type bridge
    ip address add 10.77.0.1/24 dev instances
    ip link set instances up
    exec "${pytest[@]}" -s "$@" tests/package/test_[12]_*.py
    ;;
  image)
    ip link set lo up
    # crun refuses a machine that has both versions of control groups, also where it is to make none.
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    exec scripts/with-postgres.sh "${pytest[@]}" tests/package/test_3_*.py
    ;;
esac

SALEBELL_TEST_PACKAGE=$(realpath "${1:?the package}")
SALEBELL_TEST_OCI=$(realpath "${2:?the image}")
shift 2
SALEBELL_TEST_ROOT=$(scripts/lib/run-in-debian.sh root)
export SALEBELL_TEST_PACKAGE SALEBELL_TEST_OCI SALEBELL_TEST_ROOT
# inside WHAT ARGUMENT…: in namespaces of its own.
inside() {
  SALEBELL_RUN_INSIDE=$1 scripts/lib/run-as-root.sh unshare --net --mount --propagation private --kill-child "$0" "${@:2}"
}
# Both wait most of the time. What the shorter one says is shown when it is over.
log=$(mktemp)
trap 'kill "$beside" 2>/dev/null || true; rm -f "$log"' EXIT
{
  inside image
  "${pytest[@]}" tests/package/test_4_*.py
} >"$log" 2>&1 &
beside=$!
status=0
inside machines "$@" || status=1
wait "$beside" || status=1
cat "$log"
exit "$status"
