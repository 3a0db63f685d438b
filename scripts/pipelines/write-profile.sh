#!/usr/bin/env bash
# write-profile.sh ENVIRONMENT ACCOUNT ROLE: writes the AWS profile `salebell` in a CodeBuild job: the role
# salebell-<environment>-<role> of another account, assumed with the job's own role. It contains no key; boto3 assumes
# the role anew after an hour, the maximum for a role that another role has assumed.
set -euo pipefail
environment=$1 account=$2 role=$3
if ! [[ $environment =~ ^(dev|stage|prod)$ && $account =~ ^[0-9]{12}$ && $role =~ ^(deploy|rollout)$ ]]; then
  echo "ENV=$environment ACCOUNT=$account ROLE=$role: must be dev, stage or prod, twelve digits, and deploy or rollout" >&2
  exit 1
fi
file=${AWS_CONFIG_FILE:-$HOME/.aws/config}
if [ -e "$file" ] && ! grep -q '^# Written by write-profile.sh' "$file"; then
  echo "$file is there already, and is not ours: this is for the jobs of the pipelines" >&2
  exit 1
fi
mkdir -p "${file%/*}"
cat >"$file" <<PROFILE
# Written by write-profile.sh
[profile salebell]
role_arn = arn:aws:iam::$account:role/salebell-$environment-$role
role_session_name = ${CODEBUILD_BUILD_NUMBER:+build-}${CODEBUILD_BUILD_NUMBER:-pipeline}
credential_source = EcsContainer
region = ${AWS_REGION:?}
PROFILE
echo "    as salebell-$environment-$role of account $account"
