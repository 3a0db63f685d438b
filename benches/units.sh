#!/usr/bin/env bash
# An instance booted from a machine image, again and again: from the start of salebell-boot.service until the launch hook is
# completed, which is what our units take of a boot, and the processor time of each. Of two images, in turns, also the ratio.
#   make bench-units IMAGES="OLD NEW"    folders of `make bake-local`, the newer one last; STARTS=10 is how often
# Images of the same build: SALEBELL_BINARY=target/debug/salebell scripts/bake-image.sh local, in a worktree of each commit.
# Root's, as the rehearsal is. Metadata and Auto Scaling are a few lines here, SSM and Secrets Manager are moto.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -eq 0 ] || [ $# -gt 2 ]; then
  echo "IMAGES names one or two folders of 'make bake-local'" >&2
  exit 1
fi
# shellcheck source=scripts/lib/system-programs.sh
. scripts/lib/system-programs.sh
if [ -z "${SALEBELL_BENCH_INSIDE:-}" ]; then
  scripts/install-packages.sh test
  SALEBELL_TEST_PYTHON=$(scripts/lib/prepare-python.sh)/bin/python
  export SALEBELL_TEST_PYTHON SALEBELL_BENCH_INSIDE=yes
  # All addresses are those of AWS, in a network of its own.
  exec scripts/lib/run-as-root.sh unshare --net --mount --propagation private env STARTS="${STARTS:-10}" "$0" "$@"
fi
if [ -z "${SALEBELL_TEST_DATABASE_URL:-}" ]; then
  ip link set lo up
  exec scripts/with-postgres.sh "$0" "$@"
fi
url=${SALEBELL_TEST_DATABASE_URL%/*}/units
psql -X -q "$SALEBELL_TEST_DATABASE_URL" -c "create database units"
SALEBELL_DATABASE__URL=$url "${!#}/root/usr/bin/salebell" migrate 2>/dev/null
exec "$SALEBELL_TEST_PYTHON" benches/units.py "$url" "$STARTS" "$@"
