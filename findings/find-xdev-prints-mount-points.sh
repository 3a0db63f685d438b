#!/usr/bin/env bash
# find -xdev does not leave mounted file systems out: it does not descend into them, but prints the folder that each is
# mounted on, with the times and modes of what is mounted there. So `find / -xdev -newermt … | xargs touch`, as one writes it
# to make images reproducible, touches /sys as well, and fails ("touch: setting times of '/sys': Read-only file system") on
# every machine that was booted after the given time. -mount is the same option in findutils 4.9 and 4.10; POSIX.1-2024 has
# it leave the mount points out. What does leave them out is a look through a bind mount, which is not recursive.
# Seen with findutils 4.9.0 (Debian 12) and 4.10.0 (Debian 13), on ext4, overlay and tmpfs. Output:
#   -xdev: ./mounted
#   -mount: ./mounted
#   touch: 123
#   through a bind mount: ./mounted is 2001-09-09
# Needs nothing but findutils, coreutils and util-linux; as root, or where users may make namespaces.
set -euo pipefail
if [ "${1:-}" != inside ]; then
  how=(--mount)
  [ "$(id -u)" -eq 0 ] || how+=(--map-root-user)
  folder=$(mktemp -d)
  trap 'rmdir "$folder"' EXIT
  unshare "${how[@]}" bash "$0" inside "$folder"
  exit
fi
mount -t tmpfs tmpfs "$2"
cd "$2"
mkdir image view
cd image
mkdir mounted
touch --date=@1000000000 mounted . # before anything is mounted on it
mount -t tmpfs -o ro tmpfs mounted
xdev=$(find . -xdev -newermt @1500000000)
posix=$(find . -mount -newermt @1500000000)
status=0
find . -xdev -newermt @1500000000 -print0 | xargs -0 touch --date=@1500000000 2>/dev/null || status=$?
mount --bind . ../view
seen=$(cd ../view && find . -newermt @1500000000; date --utc --reference=mounted +%F)
echo "-xdev: $xdev"
echo "-mount: $posix"
echo "touch: $status"
echo "through a bind mount: ./mounted is $seen"
[ "$xdev,$posix,$status,$seen" = ./mounted,./mounted,123,2001-09-09 ]
