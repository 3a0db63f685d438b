#!/usr/bin/env bash
# set-times.sh ROOT: gives nothing in the root file system at ROOT (/ in the image itself) a time later than
# $SOURCE_DATE_EPOCH, in seconds since 1970. Mounts below it are not part of the image, and are left unchanged.
set -euo pipefail
root=$(realpath "${1:?the root of the image}")
if [ "${2:-}" != in-namespace ]; then
  exec unshare --mount --propagation private "$0" "$root" in-namespace
fi
# A bind mount shows one file system without those that are mounted in it. `find -xdev` does not descend into those, but
# does print their mount points: for example /sys, which is read-only, and as young as the boot of the machine. Through
# this mount, those folders are the image's own.
mount --bind "$root" /mnt
# --no-create: the machine may be running, and a file may disappear before its turn.
find /mnt -newermt "@$SOURCE_DATE_EPOCH" -print0 |
  xargs -0 -r touch --no-create --no-dereference --date="@$SOURCE_DATE_EPOCH"
