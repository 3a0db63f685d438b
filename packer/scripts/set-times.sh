#!/usr/bin/env bash
# set-times.sh ROOT: makes nothing in the root file system at ROOT (/ in the image itself) younger than $SOURCE_DATE_EPOCH, in
# seconds since 1970. What is mounted in it is no part of the image, and is left alone.
set -euo pipefail
root=$(realpath "${1:?the root of the image}")
if [ "${2:-}" != in-namespace ]; then
  exec unshare --mount --propagation private "$0" "$root" in-namespace
fi
# A bind mount shows one file system without those that are mounted in it. `find -xdev` would not descend into them, but
# does print where they begin: /sys, say, which is read-only, and as young as the boot of the machine. Through this mount
# those folders are the image's own.
mount --bind "$root" /mnt
# --no-create: the machine may be running, and a file be gone before its turn comes.
find /mnt -newermt "@$SOURCE_DATE_EPOCH" -print0 |
  xargs -0 -r touch --no-create --no-dereference --date="@$SOURCE_DATE_EPOCH"
