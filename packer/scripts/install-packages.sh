#!/usr/bin/env bash
# In the image: Debian's current updates, the packages in packages.txt, and nothing else of the base.
set -euo pipefail
stage=/tmp/salebell-bake
cd "$stage" # exists only on a machine on which an image is baked
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

apt() {
  apt-get -qq -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 \
    -o Acquire::Retries=3 -o APT::Install-Recommends=false "$@"
}

# On AWS, cloud-init's first boot may still be running.
if [ -e /run/cloud-init/instance-data.json ]; then
  timeout 120 cloud-init status --wait >/dev/null || true
fi

mapfile -t wanted < <(sed 's/#.*//' "$stage/packages.txt" | tr -s ' \t' '\n' | sed '/^$/d')
apt update
apt upgrade --with-new-pkgs -y >/dev/null
apt install -y "${wanted[@]}" >/dev/null

# The kernel and the boot loader stay as the base has them; the SSH server and sudo serve this bake until
# clean-image.sh. Everything else has to be on the list or be a dependency of a package on it.
mapfile -t boots < <(apt-mark showmanual | grep -E '^(linux-image-|grub|shim)' || true)
apt-mark showmanual | xargs -r apt-mark auto >/dev/null
apt-mark manual "${wanted[@]}" "${boots[@]}" openssh-server openssh-client sudo >/dev/null
apt autoremove --purge -y >/dev/null
# Configuration of packages that were removed earlier.
dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | awk '$1 == "rc" { print $2 }' | xargs -r dpkg --purge >/dev/null
echo "$(dpkg-query -W | wc -l) packages of Debian $(cat /etc/debian_version)"
