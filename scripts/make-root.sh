#!/usr/bin/env bash
# Prints the folder of a Debian 13 root file system with what an instance needs of Debian, and nothing of ours. It is made
# by mmdebstrap once for each list of packages (two minutes, 400 MB), below ${XDG_CACHE_HOME:-~/.cache}/salebell, and
# is not to be written to: put an overlay over it.
set -euo pipefail

packages=systemd-sysv,udev,dbus,passwd,iproute2,systemd-resolved,systemd-timesyncd,cloud-init,cloud-guest-utils,curl,ca-certificates
suite=trixie
cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
# Of this very script: it says all that goes in.
root=$cache/root-$suite-$(sha256sum "$0" | cut -c -12)

if ! [ -d "$root" ]; then
  if [ "$(id -u)" -ne 0 ] || ! command -v mmdebstrap >/dev/null; then
    echo "a root file system is made by root, with mmdebstrap; 'make test' installs it" >&2
    exit 1
  fi
  mkdir -p "$cache"
  # Two at once: the second one waits, and finds it.
  exec 9>"$root.lock"
  flock 9
fi
if ! [ -d "$root" ]; then
  echo "==> making a root file system of Debian $suite" >&2
  trap 'rm -rf "$root.new"' EXIT
  rm -rf "$root.new"
  mmdebstrap --quiet --variant=apt --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "$suite" "$root.new" >&2
  # As the image has it: no prompt, no account to log in with, nothing that lends its rights.
  systemctl --quiet --root="$root.new" mask getty@.service serial-getty@.service console-getty.service \
    container-getty@.service autovt@.service getty.target
  cut -d: -f1 "$root.new/etc/passwd" | while read -r user; do
    chroot "$root.new" usermod --lock --shell /usr/sbin/nologin "$user"
  done
  find "$root.new" -xdev -type f -perm /6000 -exec chmod ug-s {} +
  rm -rf "$root.new"/var/cache/apt/* "$root.new"/var/lib/apt/lists/* "$root.new"/etc/hostname
  : >"$root.new/etc/machine-id"
  mv "$root.new" "$root"
  trap - EXIT
fi
touch "$root"
echo "$root"
