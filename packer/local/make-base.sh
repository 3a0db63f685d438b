#!/usr/bin/env bash
# make-base.sh RELEASE ARCHITECTURE FOLDER PART: makes FOLDER/<list>.tar.zst, the root file system that stands in for
# Debian's image on AWS, unless it exists for exactly this list of packages. Prints its path. It is made in PART. Needs
# root.
set -euo pipefail
cd "$(dirname "$0")"
release=$1 architecture=$2 folder=$3 part=$4

mapfile -t packages < <(sed 's/#.*//' base-packages.txt | sed '/^$/d')
packages+=("linux-image-cloud-$architecture")
# The key contains the month, so updates do not accumulate; the bake itself updates every package.
key=$(printf '%s\n' "$release" "$architecture" "$(date +%Y-%m)" "${packages[@]}" "$(cat make-base.sh)" | sha256sum |
  cut -c 1-12)
base=$folder/$release-$architecture-$key.tar.zst
if ! [ -s "$base" ]; then
  mkdir -p "$folder"
  # Older ones are obsolete; one of this month may belong to another checkout.
  find "$folder" -name "$release-$architecture-*" -mtime +31 -delete
  echo "==> making the base with mmdebstrap: ${#packages[@]} packages and what they need (about a minute)" >&2
  # As in Debian's images on AWS, except for the boot loader's partition; scripts/lib/boot-vm.sh makes a partition with
  # this name. Debian's initrd was made where the root file system was visible, so it contains the checker for it; here
  # the file system is named instead. Both files exist before the packages are installed, one of which makes the initrd.
  cat >"$part.hook" <<'HOOK'
echo 'PARTUUID=5a1ebe11-0000-4000-8000-000000000001 / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1' >"$1/etc/fstab"
mkdir -p "$1/etc/initramfs-tools/conf.d"
echo 'FSTYPE=ext4' >"$1/etc/initramfs-tools/conf.d/root-file-system"
HOOK
  # A fixed date, the release's: files that are generated rather than unpacked get it.
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
