#!/usr/bin/env bash
# `make rehearse`: boots a fleet on this machine, puts a load on it, and plays the events that happen to fleets
# (docs/decisions/0023-rehearsal.md). Arguments are scenarios, such as `roll`; without one, all of them run one after
# the other.
#   SALEBELL_REHEARSE_IMAGES    one or two folders of `make bake-local`, to roll from and to; without it an image of the
#                               debug build, which is found again while nothing in it changes
#   SALEBELL_REHEARSE_FLEET     how many instances, from 3 (without it) to 6
#   SALEBELL_REHEARSE_SETTINGS  parameters over those of the rehearsal, such as `server/linger_s=0`
#   SALEBELL_REHEARSE_REPORT    where the report goes; without it below the target folder
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/require-rust.sh
. scripts/lib/require-rust.sh
# shellcheck source=scripts/lib/system-programs.sh
. scripts/lib/system-programs.sh
scripts/install-packages.sh test
SALEBELL_TEST_PYTHON=$(scripts/lib/prepare-python.sh)/bin/python
export SALEBELL_TEST_PYTHON SQLX_OFFLINE=true
if [ -z "${SALEBELL_REHEARSE_IMAGES:-}" ]; then
  echo "==> building, and baking the image (found again while nothing in it changes)"
  cargo build --locked --quiet --bin salebell
  SALEBELL_REHEARSE_IMAGES=$(SALEBELL_BINARY=${CARGO_TARGET_DIR:-target}/debug/salebell scripts/bake-image.sh local)
  export SALEBELL_REHEARSE_IMAGES
fi
# For the rehearsal's AWS, which accepts any credentials; the user's own are not used.
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
unset AWS_SESSION_TOKEN AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN
program=$(scripts/lib/find-test.sh rehearse)
exec scripts/lib/run-as-root.sh "$program" "$@"
