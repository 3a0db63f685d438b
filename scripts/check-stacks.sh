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
  # It says whether what the stacks write is a configuration.
  # shellcheck source=scripts/require-rust.sh
  . scripts/require-rust.sh
  cargo build --locked --quiet --bin salebell
  export SALEBELL_BINARY=${CARGO_TARGET_DIR:-target}/debug/salebell
fi
# No test may reach an account, whatever this shell has.
unset AWS_PROFILE AWS_SESSION_TOKEN AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=eu-central-1 AWS_EC2_METADATA_DISABLED=true
export PYTHONDONTWRITEBYTECODE=1

python=$(scripts/prepare-python.sh tests/stacks/requirements.txt)/bin/python
check() {
  "$python" -m pytest -q -p no:cacheprovider "$@"
}
# An emulator is waited for, so the tests that have one run beside the others, which compute. What they say comes last.
emulated=()
for file in tests/stacks/test_deployment.py tests/stacks/test_commands.py tests/stacks/test_at_night.py; do
  [ ! -e "$file" ] || emulated+=("$file")
done
if [ $# -gt 0 ] || [ ${#emulated[@]} -eq 0 ]; then
  check tests/stacks "$@"
else
  said=$(mktemp)
  trap 'rm -f "$said"' EXIT
  check "${emulated[@]}" >"$said" 2>&1 &
  failed=
  check tests/stacks "${emulated[@]/#/--ignore=}" || failed=yes
  echo "==> on an emulated AWS"
  wait $! || failed=yes
  cat "$said"
  [ -z "$failed" ]
fi
if [ -n "$all" ]; then
  echo "==> checkov"
  checkov=$(scripts/prepare-python.sh tests/stacks/checkov.txt)/bin/checkov
  "$python" tests/stacks/run_checkov.py "$checkov"
fi
