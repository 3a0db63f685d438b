#!/usr/bin/env bash
# Holds systemd/ against the systemd of the image: nothing that it does not understand, and an exposure of at most 1.5 for
# every service that stays. Needs root, for the root file system that it looks from.
set -euo pipefail
cd "$(dirname "$0")/.."
stays=(salebell-api salebell-worker salebell-terminating)
threshold=15 # tenths

if [ "$(id -u)" -ne 0 ]; then
  echo "the units are looked at by root, from a root file system with the image's systemd" >&2
  exit 1
fi
# Mounts and what is on them end with this script.
if [ "${SALEBELL_CHECK_INSIDE:-}" != yes ]; then
  SALEBELL_CHECK_INSIDE=yes exec unshare --mount --propagation private "$0" "$@"
fi
base=$(scripts/make-root.sh)
mount -t tmpfs tmpfs /mnt
mkdir /mnt/{changes,work,root}
root=/mnt/root
mount -t overlay overlay -o "lowerdir=$base,upperdir=/mnt/changes,workdir=/mnt/work" "$root"
scripts/install-units.sh "$root"
install -m 0755 /dev/null "$root/usr/bin/salebell"
mount -t proc proc "$root/proc"
analyze() {
  chroot "$root" systemd-analyze "$@"
}

mapfile -t units < <(cd systemd/system && ls -d ./*.service ./*.target ./*.timer)
units=("${units[@]#./}")
# It ends with 0 where it has complaints.
complaints=$(analyze verify --man=no "${units[@]}" 2>&1 || true)
if [ -n "$complaints" ]; then
  echo "$complaints" >&2
  exit 1
fi
echo "${#units[@]} units are understood"

failed=0
for unit in "${units[@]}"; do
  case $unit in *.service) ;; *) continue ;; esac
  limit=100
  for one in "${stays[@]}"; do
    [ "$unit" = "$one.service" ] && limit=$threshold
  done
  said=$(analyze security --no-pager --offline=true --threshold="$limit" "$unit" 2>&1) || {
    echo "$said" | grep '✗' >&2
    failed=1
  }
  echo "$said" | tail -n 1 | sed 's/^→ //'
done
exit "$failed"
