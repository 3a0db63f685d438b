#!/usr/bin/env bash
# `make bake-compare`: bakes twice, the second time from a base of its own, and compares the images file by file.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
mkdir -p "$cache"
folder=$(mktemp -d "$cache/compare.XXXXXX")
trap 'packer/local/remove-folder.sh "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
first=$(SALEBELL_IMAGES=$folder/first scripts/bake-image.sh local)
second=$(SALEBELL_IMAGES=$folder/second SALEBELL_BASES=$folder/base scripts/bake-image.sh local)
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" python3 packer/compare-images.py "$first" "$second"
