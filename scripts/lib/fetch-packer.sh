#!/usr/bin/env bash
# Installs `packer` into ${XDG_CACHE_HOME:-~/.cache}/salebell/tools/bin if the machine has none: that of Debian 12, a
# single program that only needs the C library. Debian 13 has dropped Packer, but uses the same mirror and the same
# keys.
set -euo pipefail
tools=${XDG_CACHE_HOME:-$HOME/.cache}/salebell/tools
if command -v packer >/dev/null 2>&1 || [ -x "$tools/bin/packer" ]; then
  exit 0
fi
release=bookworm
# shellcheck disable=SC2016 # the format is apt's
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
  grep -v security | head -n 1)
if [ -z "$mirror" ]; then
  echo "This machine has no Packer and no Debian mirror in its apt settings. Please install Packer 1.6.6 or newer." >&2
  exit 1
fi
echo "==> fetching the Packer of Debian 12"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial" "$tools/bin"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$folder/sources.list"
apt() {
  apt-get -qq -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$folder/state" \
    -o Dir::State::Status=/dev/null -o Dir::Cache="$folder/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}
apt update
(cd "$folder" && apt download packer)
dpkg-deb --extract "$folder"/packer_*.deb "$folder/packer"
install -m 0755 "$folder/packer/usr/bin/packer" "$tools/bin/packer"
