#!/usr/bin/env bash
# The AWS CLI of PyPI ignores AWS_ENDPOINT_URL for SQS, and for no other service that was tried.
#
# Versions: awscli 1.46.3 (PyPI); boto3 1.43.106 for comparison.
# Behaviour: with AWS_ENDPOINT_URL=http://127.0.0.1:PORT (or AWS_ENDPOINT_URL_SQS) `aws sns …`, `aws s3api …`, `aws rds …` and the
# others go to the emulator there, and `aws sqs …` goes to https://REGION.queue.amazonaws.com, the real AWS. boto3 heeds it for
# SQS too. `--endpoint-url` on the command line is heeded for all of them.
# Seen on 2026-11-30:
#   AWS_ENDPOINT_URL:     sns → http://127.0.0.1:1/, sqs → https://eu-central-1.queue.amazonaws.com/
#   AWS_ENDPOINT_URL_SQS: sqs → https://eu-central-1.queue.amazonaws.com/
#   boto3:                sqs → http://127.0.0.1:1/
# Consequence: a script that is tested against an emulator by that variable reads, purges and deletes queues of the account
# whose credentials the shell happens to have, and only those calls. Give `--endpoint-url`, or call SQS by boto3.
#
# Ends with 0 while that is so. Nothing is sent anywhere: each call goes through a proxy that is not there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet awscli==1.46.3 boto3==1.43.106
export AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b AWS_DEFAULT_REGION=eu-central-1 AWS_MAX_ATTEMPTS=1 AWS_EC2_METADATA_DISABLED=true
export HTTP_PROXY=http://127.0.0.1:1 HTTPS_PROXY=http://127.0.0.1:1
unset NO_PROXY no_proxy http_proxy https_proxy AWS_ENDPOINT_URL AWS_ENDPOINT_URL_SQS AWS_PROFILE
# asked SETTING COMMAND…: the address that the command wanted to call.
asked() {
  local setting=$1
  shift
  # Before the proxy fails, the log has the request.
  { env "$setting" "$folder/env/bin/aws" --debug "$@" 2>&1 || true; } |
    grep -o "url=https\?://[^,]*" | head -n 1 | cut -d= -f2
}
here=http://127.0.0.1:1
sns=$(asked "AWS_ENDPOINT_URL=$here" sns list-topics)
sqs=$(asked "AWS_ENDPOINT_URL=$here" sqs list-queues)
own=$(asked "AWS_ENDPOINT_URL_SQS=$here" sqs list-queues)
boto=$(AWS_ENDPOINT_URL=$here "$folder/env/bin/python" -c "import boto3; print(boto3.client('sqs').meta.endpoint_url)")
echo "AWS_ENDPOINT_URL:     sns → $sns, sqs → $sqs"
echo "AWS_ENDPOINT_URL_SQS: sqs → $own"
echo "boto3:                sqs → $boto"
case "$sns $boto $sqs $own" in
  "$here/ $here https://eu-central-1.queue.amazonaws.com/ https://eu-central-1.queue.amazonaws.com/") ;;
  *) echo 'the behaviour has changed' >&2; exit 1 ;;
esac
