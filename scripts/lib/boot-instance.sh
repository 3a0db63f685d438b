#!/usr/bin/env bash
# boot-instance.sh FOLDER IMAGE ADDRESS: boots an instance under systemd-nspawn and becomes its console. IMAGE is a
# folder of `make bake-local`. All changes of the instance are kept in FOLDER, from which it can boot again; files in
# FOLDER/etc before the first boot are copied over its /etc.
#
# It has a network namespace of its own, and in it eth0 with ADDRESS (10.77.0.11). Runs as root in a network namespace
# that the caller provides: with the bridge "instances" that has 10.77.0.1/24, and on it 169.254.169.254 with the
# metadata service.
#
# It ends when the machine is off. SIGTERM and Ctrl-C shut the machine down in an orderly way, the end of standard input
# cuts its power. It leaves nothing behind: its mounts and its network end with its processes. FOLDER/init contains the
# process id of its systemd, for `nsenter -t $(cat FOLDER/init) -a`.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:?a folder for what the instance changes}
image=${2:?a folder of make bake-local}
address=${3:?an address such as 10.77.0.11}
if [ "$(id -u)" -ne 0 ]; then
  echo "an instance is booted by root" >&2
  exit 1
fi
for program in systemd-nspawn ip nsenter setpriv; do
  if ! command -v "$program" >/dev/null; then
    echo "$program is missing; 'make test' installs it" >&2
    exit 1
  fi
done
if ! [ -d "$image/root" ]; then
  echo "$image is no image: it has no root file system. 'make bake-local' makes one, and prints its folder" >&2
  exit 1
fi
# Marks the image as used, so scripts/bake-image.sh keeps it.
touch --no-create "$image/complete"

# In a mount namespace, so mounts and named network namespaces end with it.
if [ "${SALEBELL_BOOT_INSIDE:-}" != yes ]; then
  SALEBELL_BOOT_INSIDE=yes exec unshare --mount --propagation private "$0" "$@"
fi

mkdir -p "$folder"/{changes,work,root}
mount -t overlay overlay -o "lowerdir=$image/root,upperdir=$folder/changes,workdir=$folder/work" "$folder/root"
root=$folder/root
if ! [ -e "$folder/changed" ]; then
  if [ -d "$folder/etc" ]; then
    cp -r "$folder/etc/." "$root/etc/"
  fi
  # The instance has no disk of its own to check, remount or grow.
  : >"$root/etc/fstab"
  # The network and the resolver are configured from outside.
  for unit in systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service systemd-resolved.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  rm -f "$root/etc/resolv.conf"
  echo "nameserver 10.77.0.1" >"$root/etc/resolv.conf"
  touch "$folder/changed"
fi

# shellcheck source=scripts/lib/control-groups.sh
. scripts/lib/control-groups.sh
groups=$(control_groups)
group=$groups/salebell-instance-$$
# Leftovers of instances that were killed.
for old in "$groups"/salebell-instance-* /run/systemd/nspawn/propagate/salebell-instance-*; do
  if [ -d "$old" ] && ! [ -d "/proc/${old##*-}" ]; then
    remove_group "$old"
  fi
done
mkdir "$group"

# Named for this process: the veth's end in the caller's namespace needs a unique name.
network=instance$$
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
ip netns add "$network"
ip link add "v$$" type veth peer name eth0 netns "$network"
ip link set "v$$" master instances up
ip -n "$network" link set lo up
ip -n "$network" address add "$address/24" dev eth0
ip -n "$network" link set eth0 up
ip -n "$network" route add default via 10.77.0.1

# pdeathsig: the machine also ends if this script is killed with SIGKILL.
# UNIFIED_CGROUP_HIERARCHY: systemd 257 supports no other, whatever this machine has.
(
  echo "$BASHPID" >"$group/cgroup.procs"
  UNIFIED_CGROUP_HIERARCHY=yes exec setpriv --pdeathsig KILL systemd-nspawn --quiet --register=no --keep-unit \
    --resolv-conf=off --link-journal=no --timezone=off \
    --machine="salebell-instance-$$" --directory="$root" --network-namespace-path="/run/netns/$network" \
    --console=read-only --boot
) </dev/null &
machine=$!
trap 'kill -TERM $machine 2>/dev/null || true' INT TERM

# The machine's systemd is the descendant that has process id 1 in its own namespace.
find_init() {
  local pid children
  read -r -a children <"/proc/$machine/task/$machine/children" || true
  for pid in "${children[@]}"; do
    if grep -q '^NSpid:.*[[:space:]]1$' "/proc/$pid/status" 2>/dev/null; then
      echo "$pid" >"$folder/init.new"
      mv "$folder/init.new" "$folder/init"
      return 0
    fi
  done
  return 1
}
(
  until find_init; do
    kill -0 "$machine" 2>/dev/null || exit 0
    sleep 0.05
  done
) &
# The caller is gone.
(
  while read -r _; do :; done
  kill -KILL "$machine" 2>/dev/null || true
) <&0 &
watcher=$!

# The caller may no longer read the output; the cleanup below runs nevertheless.
trap '' PIPE
# A signal interrupts `wait`, but not the process that it waits for.
status=0
while kill -0 "$machine" 2>/dev/null; do
  status=0
  wait "$machine" || status=$?
done
kill "$watcher" 2>/dev/null || true
remove_group "$group"
rm -f "$folder/init"
rmdir "/run/systemd/nspawn/propagate/salebell-instance-$$" 2>/dev/null || true
exit "$status"
