#!/usr/bin/env bash
# In the image: today's state of Debian, what packages.txt lists, and nothing else that the base brought.
set -euo pipefail
stage=/tmp/salebell-bake
cd "$stage" # which only a machine has that an image is baked on
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

apt() {
  apt-get -qq -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 \
    -o Acquire::Retries=3 -o APT::Install-Recommends=false "$@"
}

# On AWS the first boot may still be at work.
if [ -e /run/cloud-init/instance-data.json ]; then
  timeout 120 cloud-init status --wait >/dev/null || true
fi

mapfile -t wanted < <(sed 's/#.*//' "$stage/packages.txt" | tr -s ' \t' '\n' | sed '/^$/d')
apt update
apt upgrade --with-new-pkgs -y >/dev/null
apt install -y "${wanted[@]}" >/dev/null

# What boots stays as the base has it; the server and sudo carry this bake until clean-image.sh. Everything else has to
# be on the list or needed by something that is.
mapfile -t boots < <(apt-mark showmanual | grep -E '^(linux-image-|grub|shim)' || true)
apt-mark showmanual | xargs -r apt-mark auto >/dev/null
apt-mark manual "${wanted[@]}" "${boots[@]}" openssh-server openssh-client sudo >/dev/null
apt autoremove --purge -y >/dev/null
# Configuration of packages that went away before.
dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | awk '$1 == "rc" { print $2 }' | xargs -r dpkg --purge >/dev/null
echo "$(dpkg-query -W | wc -l) packages of Debian $(cat /etc/debian_version)"
