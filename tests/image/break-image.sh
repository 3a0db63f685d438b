#!/usr/bin/env bash
# break-image.sh IMAGE: lays faults over a baked image, one of each kind that validate-image.sh looks for, and fails
# unless each is told. The image itself stays as it is: the faults are in an overlay that ends with this script.
set -euo pipefail
cd "$(dirname "$0")/../.."
image=$(realpath "${1:?the folder of a local bake}")
if [ "$(id -u)" -ne 0 ]; then
  exec sudo "$0" "$image"
fi
if [ "${2:-}" != in-namespace ]; then
  exec unshare --mount --propagation private "$0" "$image" in-namespace
fi
mount -t tmpfs tmpfs /mnt
mkdir /mnt/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$image/root,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
root=/mnt/root

expected=()
# fault WORDS COMMAND…: what the command breaks is told with these words.
fault() {
  expected+=("$1")
  shift
  "$@"
}
write() {
  mkdir -p "${1%/*}"
  echo "${2:-}" >"$1"
}
fault 'files differ from the manifest: ' sh -c "echo >>$root/usr/lib/sysctl.d/50-salebell.conf"
fault 'packages differ from the manifest: curl=' sed -i '/^Package: curl$/,/^$/d' $root/var/lib/dpkg/status
fault '/usr/bin/salebell is missing' chmod 0775 $root/usr/bin/salebell
fault '/usr/share/salebell/sbom.cdx.json is missing' rm $root/usr/share/salebell/sbom.cdx.json
fault '/etc/salebell/rds.pem is missing' truncate -s 0 $root/etc/salebell/rds.pem
fault 'no kernel in /boot' find $root/boot -name 'vmlinuz-*' -delete
fault 'no initrd in /boot' find $root/boot -name 'initrd.img-*' -delete
fault 'has no ena' find $root/usr/lib/modules -name 'ena.ko*' -delete
fault '/etc/fstab has no root file system' sed -i 's/,x-systemd.growfs//' $root/etc/fstab
fault 'MB, more than 500' fallocate -l 500M $root/usr/large
fault 'SSH is still there: /etc/ssh/ssh_host_ed25519_key ' write $root/etc/ssh/ssh_host_ed25519_key
fault ' /usr/sbin/sshd' write $root/usr/sbin/sshd
fault 'sudo is still there' write $root/etc/sudoers
fault 'a password, or need none: games' sed -i 's/^games:[^:]*:/games::/' $root/etc/shadow
fault 'accounts with a shell: games' sed -i '/^games:/s#:[^:]*$#:/bin/sh#' $root/etc/passwd
fault 'accounts of people: admin' sh -c "echo admin:x:1000:1000::/home/admin:/usr/sbin/nologin >>$root/etc/passwd"
fault 'home folders: /home/admin' mkdir $root/home/admin
fault 'set-uid or set-gid files: /usr/bin/mount' chmod u+s $root/usr/bin/mount
fault 'writable by everybody: /etc/fault' install -m 0666 /dev/null $root/etc/fault
fault "in /usr and not root's: /usr/bin/curl" chown 1 $root/usr/bin/curl
fault 'getty@.service is not masked' rm $root/etc/systemd/system/getty@.service
fault '/etc/machine-id is not an empty file' write $root/etc/machine-id 0123
fault '/var/lib/systemd/random-seed is still there' write $root/var/lib/systemd/random-seed
fault 'left in /var/log: /var/log/dpkg.log' write $root/var/log/dpkg.log
fault 'left in /var/lib/cloud' write $root/var/lib/cloud/instance/user-data.txt
fault 'left behind: /etc/shadow-' write $root/etc/shadow-

if told=$(packer/scripts/validate-image.sh $root 2>&1); then
  echo "a broken image was called valid" >&2
  exit 1
fi
missed=0
for words in "${expected[@]}"; do
  if ! grep -qF -- "$words" <<<"$told"; then
    echo "not told: $words" >&2
    missed=$((missed + 1))
  fi
done
if [ "$missed" -gt 0 ]; then
  printf '%s\n' "$told" >&2
  exit 1
fi
echo "all ${#expected[@]} faults are told"
