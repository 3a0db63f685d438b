#!/usr/bin/env bash
# check-units.sh IMAGE: verifies Salebell's units, from a folder of `make bake-local`, with the systemd of that image:
# every setting is understood, and the exposure of each long-running service is at most 1.5. Needs root or sudo.
set -euo pipefail
image=$(realpath "${1:?a folder of make bake-local}")
stays=(salebell-api salebell-worker salebell-terminating salebell-logs salebell-efs)
threshold=15 # tenths

if [ "$(id -u)" -ne 0 ]; then
  # The units are checked from within the image.
  exec sudo "$0" "$image"
fi
# Mounts end with this script.
if [ "${SALEBELL_CHECK_INSIDE:-}" != yes ]; then
  SALEBELL_CHECK_INSIDE=yes exec unshare --mount --propagation private "$0" "$image"
fi
root=$image/root
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
for folder in run tmp; do
  mount -t tmpfs tmpfs "$root/$folder"
done
analyze() {
  chroot "$root" systemd-analyze "$@"
}

mapfile -t units < <(find "$root/usr/lib/systemd/system" -maxdepth 1 -type f \( -name 'salebell*' -o -name '*salebell*.mount' \) -printf '%f\n' | sort)
if [ ${#units[@]} -eq 0 ]; then
  echo "$image has no units of ours" >&2
  exit 1
fi
# It exits with 0 even if it has complaints.
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
