#!/usr/bin/env bash
# make-base.sh RELEASE ARCHITECTURE FOLDER PART: makes FOLDER/<list>.tar.zst, the root file system that stands for Debian's
# image on AWS, unless it is there for this very list of packages. Prints its path. PART is where it is made. Wants root.
set -euo pipefail
cd "$(dirname "$0")"
release=$1 architecture=$2 folder=$3 part=$4

mapfile -t packages < <(sed 's/#.*//' base-packages.txt | sed '/^$/d')
packages+=("linux-image-cloud-$architecture")
# The month is in it, so that updates do not pile up; the bake itself brings every package up to date.
key=$(printf '%s\n' "$release" "$architecture" "$(date +%Y-%m)" "${packages[@]}" "$(cat make-base.sh)" | sha256sum |
  cut -c 1-12)
base=$folder/$release-$architecture-$key.tar.zst
if ! [ -s "$base" ]; then
  mkdir -p "$folder"
  # Older ones serve nobody any more; one of this month may be another checkout's.
  find "$folder" -name "$release-$architecture-*" -mtime +31 -delete
  echo "==> making the base with mmdebstrap: ${#packages[@]} packages and what they need (about a minute)" >&2
  # As Debian's images on AWS have it, but for the boot loader's partition; scripts/lib/boot-vm.sh makes a partition of this
  # name. Theirs has been made where the root file system was seen, and so its initrd has the checker of it; here it is
  # named. Both are there before the packages are, of which one makes the initrd.
  cat >"$part.hook" <<'HOOK'
echo 'PARTUUID=5a1ebe11-0000-4000-8000-000000000001 / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1' >"$1/etc/fstab"
mkdir -p "$1/etc/initramfs-tools/conf.d"
echo 'FSTYPE=ext4' >"$1/etc/initramfs-tools/conf.d/root-file-system"
HOOK
  # A fixed date: files that were made and not unpacked get it. It is the one of the release.
  SOURCE_DATE_EPOCH=1754690400 mmdebstrap --quiet --mode=root --variant=apt --architectures="$architecture" \
    --include="$(IFS=, && echo "${packages[*]}")" --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --essential-hook="sh -eu '$part.hook' \"\$1\"" "$release" "$part" >&2
  mv "$part" "$base"
fi
touch "$base"
echo "$base"
