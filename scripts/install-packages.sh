#!/usr/bin/env bash
# Installs with apt what this machine lacks for `make run`, `make test`, a benchmark, the machine image, a virtual
# machine of it, the commands of the stacks or the packages (argument: run, test, bench, bake, vm, stacks, package).
# Does and prints nothing if everything is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/system-programs.sh
. scripts/lib/system-programs.sh

purpose=${1:?run, test, bench, bake, vm, stacks or package}
wanted=()
want() {
  wanted+=("$@")
}
has() {
  command -v "$1" >/dev/null 2>&1
}

if [ "$purpose" != stacks ]; then
  has cc || want gcc libc6-dev
  has curl || want curl
fi
[ -e /etc/ssl/certs/ca-certificates.crt ] || want ca-certificates
if [ "$purpose" != bake ] && [ "$purpose" != stacks ] && [ "$purpose" != package ]; then
  scripts/lib/find-postgres.sh >/dev/null 2>&1 || want postgresql
fi
if [ "$purpose" = run ]; then
  # The tutorial's receiver of webhooks.
  has python3 || want python3
fi
if [ "$purpose" = test ] || [ "$purpose" = bench ]; then
  has node || want nodejs
  has npm || want npm
fi
if [ "$purpose" = bench ]; then
  has wrk || want wrk
  has nginx || want nginx
fi
if [ "$purpose" = test ] || [ "$purpose" = bake ]; then
  if ! grep -q '^ID=debian$' /etc/os-release; then
    # For Debian, scripts/lib/fetch-packer.sh provides it for all releases.
    has packer || want packer
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || want debian-archive-keyring
  fi
  has mmdebstrap || want mmdebstrap
  has systemd-nspawn || want systemd-container
  has ssh-keygen || want openssh-client
  has zstd || want zstd
  has mount || want mount
  has strip || want binutils
  has git || want git
fi
if [ "$purpose" = test ] || [ "$purpose" = bake ] || [ "$purpose" = stacks ]; then
  python3 -c 'import ensurepip' 2>/dev/null || want python3 python3-venv
fi
if [ "$purpose" = test ]; then
  has shellcheck || want shellcheck
  has openssl || want openssl
  # Instances are booted (tests/it/instance/appliance.rs).
  has systemd-nspawn || want systemd-container
  has mmdebstrap || want mmdebstrap
  has ip || want iproute2
  # The load balancer of a rehearsal.
  has haproxy || want haproxy
fi
if [ "$purpose" = test ] || [ "$purpose" = package ]; then
  # Determines the libraries that the binary needs; and the base of the OCI image.
  has dpkg-shlibdeps || want dpkg-dev
  has strip || want binutils
  has mmdebstrap || want mmdebstrap
  has python3 || want python3
  # For a user, mmdebstrap makes it in a user namespace.
  [ "$(id -u)" -eq 0 ] || has newuidmap || want uidmap
  if ! grep -q '^ID=debian$' /etc/os-release; then
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || want debian-archive-keyring
  fi
fi
if [ "$purpose" = test ]; then
  # Read and run the OCI image, as its users would.
  has umoci || want umoci
  has crun || want crun
fi
if [ "$purpose" = vm ]; then
  has qemu-system-x86_64 || want qemu-system-x86
  has sfdisk || want fdisk
  has mkfs.ext4 || want e2fsprogs
  has dnsmasq || want dnsmasq-base
  # The stand-in for EFS.
  has ganesha.nfsd || want nfs-ganesha nfs-ganesha-vfs
  has stunnel || want stunnel4
fi
if [ ${#wanted[@]} -eq 0 ]; then
  exit 0
fi

if ! has apt-get; then
  echo "This machine has no apt. Please install what stands for these Debian packages: ${wanted[*]}" >&2
  exit 1
fi
as_root=(env DEBIAN_FRONTEND=noninteractive)
if [ "$(id -u)" -ne 0 ]; then
  if ! has sudo; then
    echo "Neither root nor sudo. Please have these packages installed: ${wanted[*]}" >&2
    exit 1
  fi
  as_root=(sudo "${as_root[@]}")
fi

log=$(mktemp)
restore() {
  rm -f "$log"
}
trap restore EXIT
# apt COMMAND…: prints nothing unless it fails.
apt() {
  if ! "${as_root[@]}" apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1; then
    cat "$log" >&2
    exit 1
  fi
}
echo "==> installing ${wanted[*]}"
apt update

# Only the server programs are needed, not a database of the whole machine that starts at boot. The setting is removed
# afterwards: a later installation of PostgreSQL for another purpose behaves as Debian documents it.
if [[ " ${wanted[*]} " == *" postgresql "* ]]; then
  apt install -y --no-install-recommends postgresql-common
  drop_in=/etc/postgresql-common/createcluster.d/salebell-no-main-cluster.conf
  restore() {
    rm -f "$log"
    "${as_root[@]}" rm -f "$drop_in"
  }
  "${as_root[@]}" mkdir -p "${drop_in%/*}"
  echo "create_main_cluster = false" | "${as_root[@]}" tee "$drop_in" >/dev/null
fi
apt install -y --no-install-recommends "${wanted[@]}"
if [[ " ${wanted[*]} " == *" haproxy "* ]] && [ -d /run/systemd/system ]; then
  # Only the program is needed, not a service of the whole machine.
  "${as_root[@]}" systemctl --quiet disable --now haproxy.service
fi
if [[ " ${wanted[*]} " == *" nfs-ganesha "* ]] && [ -d /run/systemd/system ]; then
  "${as_root[@]}" systemctl --quiet disable --now nfs-ganesha.service rpcbind.socket rpcbind.service
fi
echo "==> installed"
