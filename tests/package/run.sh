#!/usr/bin/env bash
# run.sh DEB IMAGE [PYTEST ARGUMENT…]: the tests of what `make package` makes. The package is installed on booted machines of
# Debian, on a bridge of their own; the image is run by an OCI runtime on this machine, with the PostgreSQL of
# with-postgres.sh. Wants root.
set -euo pipefail
cd "$(dirname "$0")/../.."
# What runs inside of namespaces. Control groups, mounts and networks end with it.
case ${SALEBELL_RUN_INSIDE:-} in
  machines)
    ip link set lo up
    ip link add instances type bridge
    ip address add 10.77.0.1/24 dev instances
    ip link set instances up
    exec "$python" -m pytest -q -x -s -p no:cacheprovider "${@:3}" tests/package/test_[12]_*.py
    ;;
  image)
    ip link set lo up
    # crun refuses a machine that has both versions of control groups, also where it is to make none.
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    exec scripts/with-postgres.sh "$python" -m pytest -q -x -p no:cacheprovider tests/package/test_3_*.py
    ;;
esac
SALEBELL_TEST_PACKAGE=$(realpath "${1:?the package}")
SALEBELL_TEST_OCI=$(realpath "${2:?the image}")
SALEBELL_TEST_ROOT=$(scripts/run-in-debian.sh root)
python=$(scripts/prepare-python.sh tests/stacks/requirements.txt)/bin/python
export SALEBELL_TEST_PACKAGE SALEBELL_TEST_OCI SALEBELL_TEST_ROOT python PYTHONDONTWRITEBYTECODE=1
# inside WHAT ARGUMENT…: in namespaces of its own.
inside() {
  SALEBELL_RUN_INSIDE=$1 unshare --net --mount --propagation private --kill-child "$0" "${@:2}"
}
# Both wait most of the time. The shorter one is shown when it is over.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
inside image "$@" >"$log" 2>&1 &
image=$!
trap 'kill "$image" 2>/dev/null || true; rm -f "$log"' EXIT
status=0
inside machines "$@" || status=1
wait "$image" || status=1
cat "$log"
exit "$status"
