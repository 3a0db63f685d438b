#!/bin/bash
# The user data of every instance of every environment: its tags say which one this is. Runs at every boot.
set -euo pipefail
trap 'give_up "line $LINENO has failed"' ERR
give_up() {
  echo "first-boot: $1; this machine is given up" >&2
  systemctl start --no-block salebell-boot-failed.service
  exit 1
}
# A try takes 2 s at the most, and there are 20 s for all of them. Tags may come a moment after the instance.
ask() {
  curl --silent --show-error --fail --noproxy '*' --max-time 2 --retry 10 --retry-delay 1 --retry-max-time 20 \
    --retry-all-errors "$@"
}
metadata=http://169.254.169.254/latest
token=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$metadata/api/token") || give_up 'no metadata'
tag() {
  local value
  value=$(ask -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/tags/instance/$1") || return
  [[ $value =~ ^[A-Za-z0-9_-]+$ ]] && echo "$value"
}
environment=$(tag Environment) || give_up 'the tag Environment is missing, or is no name'
stack=$(tag aws:cloudformation:stack-name) || give_up 'the tag aws:cloudformation:stack-name is missing, or is no name'
printf 'SALEBELL_ENVIRONMENT=%s\nSALEBELL_STACK=%s\n' "$environment" "$stack" >/etc/salebell/instance.env
systemctl start salebell.target
