#!/usr/bin/env bash
# bake.sh WORK ARCHITECTURE BASES PACKER-ARGUMENT…: the bake against an emulated EC2. The instance is a root file system
# that systemd-nspawn boots, with Debian's own SSH server on a port of 127.0.0.1; Packer's real amazon-ebs source
# requests an instance from the emulator, which refers it to that port. Leaves the image in WORK/output/root.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib/system-programs.sh
. scripts/lib/system-programs.sh
if [ "$(id -u)" -ne 0 ]; then
  # A root file system contains files of many users.
  exec sudo env "PATH=$PATH" "HOME=$HOME" "$0" "$@"
fi
work=$1 architecture=$2 bases=$3
shift 3
say() {
  printf '==> [%3d s] %s\n' "$SECONDS" "$*"
}
if [ "$architecture" != "$(dpkg --print-architecture)" ]; then
  echo "A local bake runs programs of the image, so it makes $(dpkg --print-architecture) images only." >&2
  exit 1
fi

# Everything runs in one control group, and the machine in a separate one below: a program that boots a systemd must not
# share its group. remove-folder.sh ends what is left there, however this script ends.
# shellcheck source=scripts/lib/control-groups.sh
. scripts/lib/control-groups.sh
group=$(control_groups)/salebell-$(basename "$work")
mkdir -p "$group"/{bake,machine}
echo $$ >"$group/bake/cgroup.procs"

root=$work/root
packer_pid='' machine_pid='' emulator_pid='' running=''
# In the order of dependencies: Packer uses the emulator during its cleanup. The other two are in sessions of their own,
# so Ctrl-C reaches only Packer and this script.
finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  if [ -n "$packer_pid" ] && kill -TERM "$packer_pid" 2>/dev/null; then
    say "stopping Packer"
    wait_for_end "$packer_pid" 20 || kill -KILL "$packer_pid" 2>/dev/null || true
  fi
  if [ -n "$running" ] && kill -TERM -- "-$running" 2>/dev/null; then
    wait_for_end "-$running" 60 || kill -KILL -- "-$running" 2>/dev/null || true
  fi
  stop_machine || true
  [ -z "$emulator_pid" ] || kill "$emulator_pid" 2>/dev/null || true
  if [ "$status" -ne 0 ] && [ "$status" -lt 128 ] && [ -s "$work/machine.log" ]; then
    echo "the last that the machine said:" >&2
    tail -n 15 "$work/machine.log" >&2
  fi
  exit "$status"
}
# run COMMAND…: like the command alone, but a signal is handled at once instead of after the command.
run() {
  setsid "$@" &
  running=$!
  wait "$running"
  running=''
}
# wait_for_end PID SECONDS: waits for the end of a process or, with - before the PID, of its whole group.
wait_for_end() {
  for _ in $(seq $(($2 * 10))); do
    kill -0 -- "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  return 1
}
stop_machine() {
  [ -n "$machine_pid" ] || return 0
  # An orderly power-off, as by EC2's StopInstances.
  kill -TERM "$machine_pid" 2>/dev/null || true
  if ! wait_for_end "$machine_pid" 30; then
    kill -KILL "$machine_pid" || true
    wait_for_end "$machine_pid" 5
  fi
  machine_pid=''
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

release=$(sed -n 's/^debian_release *= *"\(.*\)"/\1/p' packer/versions.pkrvars.hcl)
run packer/local/make-base.sh "$release" "$architecture" "$bases" "$work/base.tar.zst" >"$work/base"
say "unpacking the base"
mkdir -p "$root"
run tar --extract --zstd --numeric-owner --xattrs --xattrs-include='*' --directory "$root" --file "$(cat "$work/base")"

# What cloud-init has set up on an instance of Debian's image at this point: a user with a key, who may become root.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
ssh-keygen -q -t ed25519 -N '' -C bake -f "$work/key"
chroot "$root" useradd --create-home --shell /bin/bash admin
install -d -m 0700 -o 1000 -g 1000 "$root/home/admin/.ssh"
install -m 0600 -o 1000 -g 1000 "$work/key.pub" "$root/home/admin/.ssh/authorized_keys"
echo 'admin ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/bake"
mkdir -p "$root/etc/ssh/sshd_config.d"
echo bake >"$root/etc/hostname"
echo '127.0.0.1 localhost bake' >"$root/etc/hosts"
printf 'ListenAddress 127.0.0.1\nPort %s\n' "$port" >"$root/etc/ssh/sshd_config.d/bake.conf"
# Packages that are installed start no services: the network is this machine's.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"

say "booting it"
# Masked: units that would change the network and the disk, which it shares with this machine, or leave traces that an
# instance creates itself.
masked=()
for unit in systemd-networkd.service systemd-networkd.socket systemd-resolved.service systemd-timesyncd.service \
  cloud-init-local.service cloud-init.service cloud-init-main.service cloud-init-network.service cloud-config.service \
  cloud-final.service cloud-init-hotplugd.socket ssh.socket apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
  systemd-remount-fs.service systemd-growfs-root.service systemd-fsck-root.service systemd-firstboot.service \
  systemd-machine-id-commit.service systemd-update-done.service ldconfig.service \
  systemd-journal-catalog-update.service systemd-hwdb-update.service systemd-tmpfiles-clean.timer; do
  masked+=("systemd.mask=$unit")
done
# UNIFIED_CGROUP_HIERARCHY: systemd 257 supports no other, whatever this machine has.
(
  echo "$BASHPID" >"$group/machine/cgroup.procs"
  UNIFIED_CGROUP_HIERARCHY=yes exec setsid systemd-nspawn --quiet --register=no --keep-unit \
    --machine="salebell-$(basename "$work")" --directory="$root" --resolv-conf=replace-host --timezone=off \
    --link-journal=no --boot systemd.unit=multi-user.target "${masked[@]}"
) </dev/null >"$work/machine.log" 2>&1 &
machine_pid=$!
for _ in $(seq 300); do
  if ssh-keyscan -T 1 -p "$port" 127.0.0.1 2>/dev/null | grep -q ssh-; then
    answers=yes
    break
  fi
  kill -0 "$machine_pid" 2>/dev/null || break
  sleep 0.1
done
if [ -z "${answers:-}" ]; then
  echo "no SSH server answers in the booted root file system" >&2
  exit 1
fi

say "Packer against the emulated EC2"
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=eu-central-1
unset AWS_SESSION_TOKEN AWS_PROFILE AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN
python=
for argument in "$@"; do
  case $argument in python=*) python=${argument#python=} ;; esac
done
mkfifo "$work/emulator.in"
setsid "$python" packer/local/emulate-ec2.py <"$work/emulator.in" >"$work/emulator.out" 2>"$work/emulator.log" &
emulator_pid=$!
exec 7>"$work/emulator.in"
for _ in $(seq 300); do
  endpoint=$(cat "$work/emulator.out")
  if [ -n "$endpoint" ] || ! kill -0 "$emulator_pid" 2>/dev/null; then
    break
  fi
  sleep 0.1
done
if [ -z "$endpoint" ]; then
  cat "$work/emulator.log" >&2
  exit 1
fi

template=${*: -1}
set -- "${@:1:$#-1}"
export CHECKPOINT_DISABLE=1
packer build -color=false "$@" -var-file=packer/local/emulated.pkrvars.hcl -var "ec2_endpoint=$endpoint" \
  -var ssh_host=127.0.0.1 -var "ssh_port=$port" -var "ssh_private_key_file=$work/key" "$template" \
  7>&- > >(grep --line-buffered -v 'Adding tag') &
packer_pid=$!
wait "$packer_pid" || {
  packer_pid=''
  exit 1
}
packer_pid=''

say "powering it off"
stop_machine
# Leftovers of the last boot after clean-image.sh was done.
rm -rf "$root"/var/log/journal/* "$root"/var/tmp/* "$root"/var/lib/systemd/{timers,linger,random-seed}
SOURCE_DATE_EPOCH=$(sed -n 's/^ "committed_at": \([0-9]*\),/\1/p' "$work/output/manifest.json")
export SOURCE_DATE_EPOCH
packer/scripts/set-times.sh "$root"

say "validating what came out"
packer/scripts/validate-image.sh "$root"
mv "$root" "$work/output/root"
