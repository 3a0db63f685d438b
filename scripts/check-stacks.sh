#!/usr/bin/env bash
# Checks the CloudFormation stacks without AWS: the templates by cfn-lint, guard rules and tests, and their deployment on an
# emulator (tests/stacks). With --all also by checkov, a second opinion of some hundred megabytes. Other arguments go to
# pytest: `scripts/check-stacks.sh -k tags`.
set -euo pipefail
cd "$(dirname "$0")/.."

all=
if [ "${1:-}" = --all ]; then
  all=yes
  shift
fi
if [ -z "${SALEBELL_BINARY:-}" ]; then
  # The binary validates the configuration that the stacks write.
  # shellcheck source=scripts/lib/require-rust.sh
  . scripts/lib/require-rust.sh
  cargo build --locked --quiet --bin salebell
  export SALEBELL_BINARY=${CARGO_TARGET_DIR:-target}/debug/salebell
fi
# No test may reach an AWS account, whatever the environment of this shell.
unset AWS_PROFILE AWS_SESSION_TOKEN AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=eu-central-1 AWS_EC2_METADATA_DISABLED=true
export PYTHONDONTWRITEBYTECODE=1

python=$(scripts/lib/prepare-python.sh tests/stacks/requirements.txt)/bin/python
check() {
  # Otherwise a command in the background would ignore Ctrl-C.
  env --default-signal=INT "$python" -m pytest -q -p no:cacheprovider -W "ignore:pkg_resources is deprecated" "$@"
}
if [ $# -gt 0 ]; then
  check tests/stacks "$@"
else
  # Three jobs run concurrently: the tests that wait for an emulator, the mutants, and all others. Their outputs are
  # shown one after another.
  emulated=(tests/stacks/test_deploy_page.py tests/stacks/test_deployment.py tests/stacks/test_commands.py
    tests/stacks/test_commands_in_trouble.py tests/stacks/test_at_night.py tests/stacks/test_operate.py tests/stacks/test_mute.py
    tests/stacks/test_walk.py tests/stacks/test_rollout_commands.py tests/stacks/test_pipeline_commands.py
    tests/stacks/test_stopping.py)
  mutants=tests/stacks/test_broken.py
  said=$(mktemp -d)
  trap 'jobs -p | xargs -r kill -INT 2>/dev/null || true; wait; rm -rf "$said"' EXIT
  check "${emulated[@]}" >"$said/emulated" 2>&1 &
  emulating=$!
  check "$mutants" >"$said/mutants" 2>&1 &
  mutating=$!
  failed=
  check tests/stacks --ignore "$mutants" "${emulated[@]/#/--ignore=}" || failed=yes
  echo "==> mutants of the templates"
  wait "$mutating" || failed=yes
  cat "$said/mutants"
  echo "==> on an emulated AWS"
  wait "$emulating" || failed=yes
  cat "$said/emulated"
  [ -z "$failed" ]
fi
if [ -n "$all" ]; then
  echo "==> checkov"
  checkov=$(scripts/lib/prepare-python.sh tests/stacks/checkov.txt)/bin/checkov
  "$python" tests/stacks/run_checkov.py "$checkov"
fi
