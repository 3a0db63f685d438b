#!/usr/bin/env bash
# validate-image.sh ROOT: checks that the image at ROOT (/ in the image itself) is what clean-image.sh promises:
# complete, without a way in, without anything that all instances would share. Prints every problem, and fails if there
# is one.
set -uo pipefail
root=${1:?the root of the image}
root=${root%/}
export LC_ALL=C
most_megabytes=500
# The agents double the limit; they are on AWS only, where the size delays no download.
[ ! -e "$root/usr/bin/amazon-ssm-agent" ] || most_megabytes=1500
# A file, because problems are also found in pipelines, where a variable would be lost.
problems=$(mktemp)
trap 'rm -f "$problems"' EXIT

problem() {
  echo "$*" >>"$problems"
}
# none WHAT: reports a problem if there is anything on standard input, and shows the beginning of it.
none() {
  local found
  found=$(sed "s#^$root##" | sort | head -n 5 | paste -sd ' ')
  [ -z "$found" ] || problem "$1: $found"
}
in_root() {
  if [ -z "$root" ]; then
    "$@"
  else
    chroot "$root" "$@"
  fi
}
# Everything on the image's own file system.
files() {
  find "$root/" -xdev "$@" 2>/dev/null
}

# --- complete ---
[ "$(stat -c '%U:%G %a' "$root/usr/bin/salebell" 2>/dev/null)" = "root:root 755" ] ||
  problem "/usr/bin/salebell is missing or not root's with mode 755"
in_root /usr/bin/salebell --version >/dev/null || problem "/usr/bin/salebell does not run here"
share=$root/usr/share/salebell
for file in manifest.json sbom.cdx.json packages.tsv files.sha256; do
  [ -s "$share/$file" ] || problem "/usr/share/salebell/$file is missing"
done
diff <(cut -f 1,2 "$share/packages.tsv" 2>/dev/null) \
  <(dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${db:Status-Abbrev}\t${Package}\t${Version}\n' |
    sed -n 's/^ii \t//p' | sort) |
  sed -n 's/^[<>] //p' | tr '\t' '=' | none "packages differ from the manifest"
sed "s#  /#  $root/#" "$share/files.sha256" 2>/dev/null | sha256sum --check --quiet 2>&1 |
  none "files differ from the manifest"
# sslrootcert= of database.url: RDS's authorities are not among Debian's.
[ "$(grep -c '^-----END CERTIFICATE-----$' "$root/etc/salebell/rds.pem" 2>/dev/null)" -ge 3 ] 2>/dev/null ||
  problem "/etc/salebell/rds.pem is missing or has no certificates"
[ "$(grep -c '^-----END CERTIFICATE-----$' "$root/etc/salebell/efs.pem" 2>/dev/null)" -eq 5 ] 2>/dev/null ||
  problem "/etc/salebell/efs.pem has not Amazon's five authorities"
in_root /usr/bin/stunnel -version >/dev/null 2>&1 || problem "/usr/bin/stunnel does not run here"
# The files that the boot loader needs, and the drivers for EC2's disks and network: in the kernel, as a module, or in
# the initrd.
for release in "$root"/usr/lib/modules/*; do
  release=${release##*/}
  [ -s "$root/boot/vmlinuz-$release" ] || problem "no kernel in /boot: vmlinuz-$release"
  for module in nvme ext4 ena virtio_net nfsv4; do
    in_root modinfo --set-version "$release" "$module" >/dev/null 2>&1 || problem "$release has no $module"
  done
  initrd=boot/initrd.img-$release
  if ! listed=$(in_root lsinitramfs "/$initrd" 2>&1); then
    problem "no initrd in /boot, or one that cannot be read: /$initrd"
    continue
  fi
  for file in init usr/lib/systemd/systemd-udevd usr/sbin/fsck.ext4 "usr/lib/modules/$release/modules.dep"; do
    grep -qxF "$file" <<<"$listed" || problem "/$initrd has no /$file"
  done
done
awk '$1 ~ /^(PARTUUID|UUID|LABEL)=/ && $2 == "/" && $3 == "ext4" && $4 ~ /(^|,)rw(,|$)/ && $4 ~ /x-systemd.growfs/ { found = 1 }
  END { exit !found }' "$root/etc/fstab" || problem "/etc/fstab has no root file system that is ext4, rw and grows"
# Sum of blocks of 512 bytes, counting each inode once. `du -x` omits files of an overlay.
size=$(files -type f -printf '%D:%i %b\n' | sort -u | awk '{ blocks += $2 } END { printf "%d", blocks / 2048 + 0.5 }')
[ "$size" -lt "$most_megabytes" ] || problem "$size MB, more than $most_megabytes"

# --- no way in ---
files \( -path '*/ssh/sshd_config*' -o -name 'ssh_host_*' -o -name authorized_keys -o -path '*/bin/ssh' \
  -o -path '*/sbin/sshd' -o -name 'sshd-session' -o -name dropbear \) | none "SSH is still there"
files \( -path '*/bin/sudo' -o -name 'sudoers*' \) -not -path '*/usr/share/*' | none "sudo is still there"
awk -F: '$2 !~ /^[!*]/ { print $1 }' "$root/etc/shadow" | none "accounts that have a password, or need none"
awk -F: '$7 !~ /\/(nologin|false)$/ { print $1 }' "$root/etc/passwd" | none "accounts with a shell"
awk -F: '$3 >= 1000 && $1 != "nobody" { print $1 }' "$root/etc/passwd" | none "accounts of people"
files -path "$root/home/*" | none "home folders"
files -type f -perm /6000 | none "set-uid or set-gid files"
files -not -type l -perm -0002 -not \( -type d -perm -1000 \) -not -type c | none "writable by everybody"
files -path "$root/usr/*" \( -not -user root -o -not -group root \) -not -group staff -not -group mail |
  none "in /usr and not root's"
for unit in getty@.service serial-getty@.service console-getty.service debug-shell.service apt-daily.timer \
  apt-daily-upgrade.timer; do
  [ "$(readlink "$root/etc/systemd/system/$unit")" = /dev/null ] || problem "$unit is not masked"
done

# --- nothing that all instances would share, nothing of the bake ---
[ "$(stat -c %s "$root/etc/machine-id" 2>/dev/null)" = 0 ] || problem "/etc/machine-id is not an empty file"
for path in var/lib/systemd/random-seed var/lib/dbus/machine-id etc/hostname usr/sbin/policy-rc.d; do
  if [ -e "$root/$path" ] || [ -L "$root/$path" ]; then
    problem "/$path is still there"
  fi
done
for folder in var/log var/lib/apt/lists var/cache var/lib/cloud var/tmp root; do
  files -path "$root/$folder/*" -not -type d | none "left in /$folder"
done
files \( -name '*.dpkg-new' -o -name '*.dpkg-tmp' -o -name '.bash_history' -o -path "$root/etc/shadow-" \
  -o -path "$root/etc/passwd-" \) | none "left behind"

if [ -s "$problems" ]; then
  sed 's/^/validate-image: /' "$problems" >&2
  exit 1
fi
echo "valid: $size MB, $(wc -l <"$share/packages.tsv") packages"
