#!/usr/bin/env bash
# `make bake-compare`: bakes twice, the second time from a base of its own, and compares the images file by file.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
folder=$(mktemp -d "$cache/compare.XXXXXX")
trap 'packer/local/remove-folder.sh "$folder"' EXIT
first=$(scripts/bake-image.sh local)
# A base of its own, so that what mmdebstrap makes is compared too.
second=$(SALEBELL_IMAGES=$folder SALEBELL_BASES=$folder/base SALEBELL_BAKE_AGAIN=yes scripts/bake-image.sh local)
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" python3 packer/compare-images.py "$first" "$second"
