#!/usr/bin/env bash
# `packer fmt -check` and `packer validate` for the template, with placeholders for the values that a bake determines.
set -euo pipefail
cd "$(dirname "$0")/.."
export CHECKPOINT_DISABLE=1
export PATH=$PATH:${XDG_CACHE_HOME:-$HOME/.cache}/salebell/tools/bin
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/salebell-bake"
for file in packer/*.hcl packer/local/*.hcl; do
  packer fmt -check -diff "$file"
done
for extra in -var=architecture=arm64 \
  "-var-file=packer/local/emulated.pkrvars.hcl -var=architecture=amd64 -var=ec2_endpoint=http://127.0.0.1:1"; do
  # shellcheck disable=SC2086 # words on purpose
  packer validate -var-file=packer/versions.pkrvars.hcl -var version=0.0.0 -var commit=0000000 -var committed_at=0 \
    -var "stage=$folder/salebell-bake" -var "output=$folder" $extra packer/main.pkr.hcl
done
