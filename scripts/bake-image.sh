#!/usr/bin/env bash
# bake-image.sh local|aws [PACKER ARGUMENT…]: bakes the machine image by packer/main.pkr.hcl and prints, as its last
# line, the folder of the result: manifest.json, sbom.cdx.json, and `root` (local) or packer-manifest.json with the AMIs.
# A local image exists once for its inputs; a second bake reuses it. docs/decisions/0019-image.md
#   SALEBELL_BINARY      bakes this binary instead of building the release (an arm64 image needs an arm64 one)
#   SALEBELL_IMAGE_ARCH  arm64 or amd64; without it this machine's
#   SALEBELL_IMAGES      folder of the results; without it salebell/images in the cache folder
#   SALEBELL_BASES       folder of the bases; without it salebell/base in the cache folder
#   SALEBELL_IMAGE_FILE  file for the description of an image on AWS: its ids and what it was made from
#   SALEBELL_BAKE_AGAIN  not empty: bakes even if the image exists
#   SOURCE_DATE_EPOCH    seconds since 1970, the latest time of any file in the image; without it the commit's time
set -euo pipefail
cd "$(dirname "$0")/.."
where=${1:?local or aws}
shift
say() {
  printf '==> [%3d s] %s\n' "$SECONDS" "$*" >&2
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
images=${SALEBELL_IMAGES:-$cache/images}
bases=${SALEBELL_BASES:-$cache/base}
architecture=${SALEBELL_IMAGE_ARCH:-$(dpkg --print-architecture)}
# shellcheck source=scripts/lib/require-rust.sh
. scripts/lib/require-rust.sh
scripts/install-packages.sh bake >&2
scripts/lib/fetch-packer.sh >&2
python=$(scripts/lib/prepare-python.sh)/bin/python
export PATH=$PATH:$cache/tools/bin

if [ "$where" = aws ]; then
  for agent in amazon-ssm-agent amazon-cloudwatch-agent; do
    if ! [ -s "packer/keys/$agent.asc" ]; then
      echo "packer/keys/$agent.asc, AWS's key for its agent, is missing; packer/versions.pkrvars.hcl says where it is." >&2
      exit 1
    fi
  done
fi

if [ -z "${SALEBELL_BINARY:-}" ]; then
  say "building the release binary"
  SALEBELL_BINARY=$(scripts/lib/build-appliance.sh)
fi
commit=$(git rev-parse HEAD)
if [ -n "$(git status --porcelain -- Cargo.toml Cargo.lock askama.toml build.rs proto core src migrations packer systemd)" ]; then
  if [ "$where" = aws ]; then
    echo "Files differ from commit $commit, whose name the image would bear. Commit first." >&2
    exit 1
  fi
  commit=$commit-dirty
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

# Leftovers of an earlier run that was killed before its cleanup.
mkdir -p "$images"
work=$images/bake.$$
for old in "$images"/bake.*; do
  if [ "$old" = "$work" ] || ! [ -d "/proc/${old##*.}" ]; then
    packer/local/remove-folder.sh "$old"
  fi
done
mkdir "$work"
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo) # a local bake needs root
bake_pid=
finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  if [ -n "$bake_pid" ]; then
    kill -TERM "$bake_pid" 2>/dev/null || "${as_root[@]}" kill -TERM "$bake_pid" 2>/dev/null || true
    wait "$bake_pid" || true
  fi
  packer/local/remove-folder.sh "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Everything that goes into the image, in one folder, from which its hash is computed.
stage=$work/salebell-bake
mkdir -p "$stage" "$work/output"
install -m 0755 "$SALEBELL_BINARY" "$stage/salebell"
strip "$stage/salebell" 2>/dev/null || true # a debug build's symbols, or another architecture's binary
cp -r packer/scripts packer/files packer/packages.txt systemd "$stage/"
[ ! -d packer/keys ] || cp -r packer/keys "$stage/"
inputs=$({
  echo "$architecture"
  cd "$stage" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  cd "$OLDPWD" && sha256sum packer/*.hcl packer/*.py packer/local/*
} | sha256sum | cut -c 1-16)

result=$images/$where-$architecture-$inputs
if [ "$where" = local ] && [ -e "$result/complete" ] && [ -z "${SALEBELL_BAKE_AGAIN:-}" ]; then
  say "nothing changed since this image was baked"
  touch "$result/complete"
  echo "$result"
  exit 0
fi

case $architecture in
  amd64) target=x86_64-unknown-linux-gnu ;;
  arm64) target=aarch64-unknown-linux-gnu ;;
esac
cargo metadata --locked --format-version 1 --filter-platform "$target" >"$work/output/crates.json"
arguments=(
  -var-file=packer/versions.pkrvars.hcl
  -var "architecture=$architecture"
  -var "version=$version"
  -var "commit=$commit"
  -var "committed_at=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
  -var "stage=$stage"
  -var "output=$work/output"
  -var "python=$python"
)
# Newer versions of Packer fetch the plugin and read the whole folder; 1.6.6 has it and knows no required_plugins.
template=packer/main.pkr.hcl
if packer plugins 2>/dev/null </dev/null | grep -q installed; then
  template=packer
  packer init packer >&2
fi

# In the background, so a signal is handled at once.
if [ "$where" = aws ]; then
  say "baking $architecture on AWS"
  CHECKPOINT_DISABLE=1 packer build -color=false "${arguments[@]}" "$@" "$template" >&2 &
else
  packer/local/bake.sh "$work" "$architecture" "$bases" "${arguments[@]}" "$@" "$template" >&2 &
fi
bake_pid=$!
wait "$bake_pid" || exit
bake_pid=
rm -f "$work/output/contents.tar" "$work/output/crates.json"
packer/local/remove-folder.sh "$result"
mv "$work/output" "$result"
touch "$result/complete"
if [ "$where" = aws ] && [ -n "${SALEBELL_IMAGE_FILE:-}" ]; then
  cp "$result/image.json" "$SALEBELL_IMAGE_FILE"
fi
if [ "$where" = local ]; then
  # The two newest earlier images stay, because a fleet is rolled from one image to another. So does an image that was
  # booted within the hour: instances of another checkout may run on it.
  find "$images" -mindepth 2 -maxdepth 2 -path '*/local-*/complete' -printf '%T@ %h\n' |
    sort -rn | tail -n +4 | awk -v "limit=$(date -d '1 hour ago' +%s)" '$1 < limit' | cut -d ' ' -f 2- |
    while read -r old; do
      packer/local/remove-folder.sh "$old"
    done
fi
say "baked $(sed -n 's/^ "name": "\(.*\)",/\1/p' "$result/manifest.json")"
echo "$result"
