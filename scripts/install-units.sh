#!/usr/bin/env bash
# install-units.sh ROOT: puts systemd/ into a root file system, each file where an image has it, and enables what the
# presets name. The binary goes to usr/bin/salebell by whoever calls this.
set -euo pipefail
root=${1:?a root file system}
cd "$(dirname "$0")/.."

copy() {
  mkdir -p "$root$2"
  cp -r "systemd/$1/." "$root$2/"
}
for folder in system system-preset journald.conf.d system.conf.d timesyncd.conf.d; do
  copy "$folder" "/usr/lib/systemd/$folder"
done
copy sysusers.d /usr/lib/sysusers.d
copy tmpfiles.d /usr/lib/tmpfiles.d
copy cloud /etc/cloud/cloud.cfg.d
copy salebell /usr/lib/salebell
install -m 0755 systemd/checks/check-instance.sh "$root/usr/lib/salebell/check-instance.sh"
{
  chroot "$root" systemd-sysusers
  chroot "$root" systemctl --quiet --root=/ preset-all
  chroot "$root" systemctl --quiet --root=/ set-default multi-user.target
} 2>&1 | { grep -vE '/proc/ is not mounted|^your invocation|^Your mileage|^Creating (group|user)' || true; } >&2
