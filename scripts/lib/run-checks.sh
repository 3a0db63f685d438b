#!/usr/bin/env bash
# Every check, the quick ones first. Needs what prepare-tests.sh fetches, and the server of with-postgres.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib/require-rust.sh
. scripts/lib/require-rust.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
export PATH=$PATH:$cache/tools/bin
# Where tests/it finds the receivers' own libraries.
SALEBELL_TEST_PYTHON=$(scripts/lib/prepare-python.sh)/bin/python
SALEBELL_TEST_NODE_PATH=$(scripts/lib/prepare-node.sh)
export SALEBELL_TEST_PYTHON SALEBELL_TEST_NODE_PATH
# For the S3 of the tests, which accepts any credentials; the user's own are not used.
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
unset AWS_SESSION_TOKEN AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN

# Where tests/clients/recorder.py records the product's calls to AWS.
mkdir -p "${CARGO_TARGET_DIR:-target}"
SALEBELL_TEST_CALLS=$(realpath "${CARGO_TARGET_DIR:-target}")/calls-of-aws.txt
export SALEBELL_TEST_CALLS
: >"$SALEBELL_TEST_CALLS"
# Where tests/it/support/openapi.rs records which answers of the OpenAPI document the tests have got.
SALEBELL_TEST_ANSWERS=$(realpath "${CARGO_TARGET_DIR:-target}")/answers-of-openapi.txt
export SALEBELL_TEST_ANSWERS
rm -f "$SALEBELL_TEST_ANSWERS"

# Results of describe-machine.sh.
left_out=${SALEBELL_TEST_LEFT_OUT:-}

step() {
  echo "==> $*"
  "$@"
}

step cargo fmt --all --check
mapfile -t shell_files < <(git ls-files '*.sh' .ci/run)
step shellcheck -x "${shell_files[@]}"
step scripts/check-packer.sh
if [ "$*" = stacks ]; then
  step scripts/check-stacks.sh
  echo "==> all checks of the stacks passed"
  exit
fi
step "$SALEBELL_TEST_NODE_PATH/.bin/buf" lint
if [ $# -eq 0 ] && [ -z "$left_out" ] && [ "$(id -u)" -eq 0 ]; then
  # It waits for the network while this script compiles. For an unprivileged user it is made when its turn comes,
  # because sudo may ask for a password then.
  setsid scripts/lib/run-in-debian.sh prepare &
  preparing=$!
  trap 'kill -- "-$preparing" 2>/dev/null || true' EXIT
fi
step cargo clippy --locked --all-targets -- -D warnings
# Not part of all targets, because `cargo test` must not run it.
step cargo clippy --locked --test rehearse -- -D warnings
# As in the image and the packages.
step cargo clippy --locked --no-default-features -- -D warnings

echo "==> cargo sqlx prepare --check"
(
  export DATABASE_URL=${DATABASE_URL%/*}/prepare
  unset SQLX_OFFLINE
  cargo sqlx database create
  cargo sqlx migrate run --source migrations
  cargo sqlx prepare --workspace --check -- --all-targets
)

# The tests that boot instances (tests/it/instance/appliance.rs) need the image; a run of other tests does not wait for
# it.
image=
case "$*:$left_out" in
  : | *appliance*:)
    step cargo build --locked --bin salebell
    echo "==> baking the image (found again while nothing in it changes)"
    SALEBELL_TEST_IMAGE=$(SOURCE_DATE_EPOCH=$(scripts/lib/time-before-boot.sh) \
      SALEBELL_BINARY=${CARGO_TARGET_DIR:-target}/debug/salebell scripts/bake-image.sh local)
    export SALEBELL_TEST_IMAGE
    image=$SALEBELL_TEST_IMAGE
    step scripts/check-units.sh "$image"
    step tests/image/break-image.sh "$image"
    ;;
esac

if [ $# -eq 0 ]; then
  step scripts/check-stacks.sh
fi

# Most tests are idle most of the time: run one more at once than there are cores.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 1))}

# Tests that measure time run afterwards, alone.
measured=process::processor_time::

# For an unprivileged user, tests that need root run with sudo (describe-machine.sh), and the others with cargo.
read -ra of_root <<<"$SALEBELL_TEST_OF_ROOT"
if [ $# -gt 0 ]; then
  if [ -n "$image" ] && [ "$(id -u)" -ne 0 ]; then
    program=$(scripts/lib/find-test.sh it)
    step scripts/lib/run-as-root.sh "$program" "$@"
  else
    step cargo test --locked "$@"
  fi
elif [ -n "$image" ] && [ "$(id -u)" -eq 0 ]; then
  step cargo test --locked -- --skip="$measured"
else
  step cargo test --locked -- --skip="$measured" "${of_root[@]/#/--skip=}"
  if [ -n "$image" ]; then
    program=$(scripts/lib/find-test.sh it)
    step scripts/lib/run-as-root.sh "$program" "${of_root[@]}"
  fi
fi
[ $# -gt 0 ] || step cargo test --locked --test it -- --test-threads=1 "$measured"
# Where tests were left out, what they would have seen is missing.
if [ $# -eq 0 ] && [ -z "$left_out" ]; then
  step scripts/check-openapi-seen.sh "$SALEBELL_TEST_ANSWERS"
fi
if [ $# -eq 0 ] && [ -z "$left_out" ]; then
  echo "==> in a bare Debian of the image: the tests that call programs of the machine (tests/outside-tools.txt)"
  mapfile -t tests < <(sed 's/#.*//; s/ *$//; /^$/d' tests/outside-tools.txt)
  program=$(scripts/lib/find-test.sh it)
  [ -z "${preparing:-}" ] || wait "$preparing"
  scripts/lib/run-in-debian.sh run "$program" "${tests[@]}"
  echo "==> making the Debian package and the OCI image, and installing, running and moving them (tests/package)"
  SALEBELL_BINARY=$(realpath "${CARGO_TARGET_DIR:-target}")/debug/salebell
  export SALEBELL_BINARY SALEBELL_PACKAGE_QUICK=yes
  made=$(scripts/make-package.sh)
  mapfile -t made <<<"$made"
  tests/package/run.sh "${made[@]}"
  unset SALEBELL_BINARY SALEBELL_PACKAGE_QUICK
  SALEBELL_REHEARSE_IMAGES=$image step scripts/rehearse.sh roll
fi
if [ $# -eq 0 ]; then
  echo "==> each call that the product made on AWS is in cloudformation/calls"
  "$(scripts/lib/prepare-python.sh tests/stacks/requirements.txt)/bin/python" tests/stacks/recorded.py "$SALEBELL_TEST_CALLS" --all
fi
if [ -n "$left_out" ]; then
  echo "==> all checks passed that this machine can do; what is root's was left out: $left_out"
else
  echo "==> all checks passed"
fi
