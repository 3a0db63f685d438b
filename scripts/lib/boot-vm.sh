#!/usr/bin/env bash
# boot-vm.sh FOLDER IMAGE ADDRESS: boots an instance as a full virtual machine under qemu and becomes its serial console:
# the kernel, initrd, fstab and network settings of the image, from a volume like EBS's. IMAGE is a folder of
# `make bake-local`. It runs where boot-instance.sh does, and is ended in the same ways; an orderly end is the power button
# of ACPI, as EC2 presses it. Besides the needs of boot-instance.sh it needs DHCP on the bridge, where ADDRESS (10.77.0.11)
# belongs to 02:00:0a:4d:00:0b, the same in hexadecimal.
#   FOLDER/volume   the disk: made from the image, from which the machine boots again. What lies in FOLDER/etc before the
#                   first boot goes over its /etc
#   FOLDER/credentials  files that its systemd gets from the firmware, units among them (systemd.system-credentials(7)).
#                   None of them is on the disk
#   FOLDER/report   what it writes to /dev/ttyS1
#   SALEBELL_VM_ACCELERATOR=kvm  for a machine that has one; without it the processor is emulated
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:?a folder for the volume}
image=${2:?a folder of make bake-local}
address=${3:?an address such as 10.77.0.11}
root=$image/root
megabytes=8192
megabytes_of_image=1024

if [ "$(id -u)" -ne 0 ]; then
  echo "a virtual machine is booted by root, who alone may join it to the bridge" >&2
  exit 1
fi
for program in qemu-system-x86_64 mkfs.ext4 sfdisk ip setpriv; do
  if ! command -v "$program" >/dev/null; then
    echo "$program is missing; 'make rehearse-vm' installs it" >&2
    exit 1
  fi
done
kernel=$(realpath --canonicalize-existing "$root/vmlinuz")
initrd=$(realpath --canonicalize-existing "$root/initrd.img")
if ! grep -q '"architecture": "amd64"' "$image/manifest.json"; then
  echo "$image is of another architecture than amd64" >&2
  exit 1
fi
# Marks the image as used, so scripts/bake-image.sh keeps it.
touch --no-create "$image/complete"
# The value that the boot loader would get, too.
partition=$(awk '$2 == "/" && sub(/^PARTUUID=/, "", $1) { print $1 }' "$root/etc/fstab")
if [ -z "$partition" ]; then
  echo "$root/etc/fstab names no partition (PARTUUID=) as the root file system" >&2
  exit 1
fi

# In a mount namespace, so mounts end with it.
if [ "${SALEBELL_BOOT_INSIDE:-}" != yes ]; then
  SALEBELL_BOOT_INSIDE=yes exec unshare --mount --propagation private "$0" "$@"
fi

volume=$folder/volume
if ! [ -e "$volume" ]; then
  mkdir -p "$folder"/{changes,work,root,etc}
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/changes,workdir=$folder/work" "$folder/root"
  cp -r "$folder/etc/." "$folder/root/etc/"
  rm -f "$volume.new"
  truncate -s "${megabytes}M" "$volume.new"
  # As on AWS, the partition is smaller than the volume: the machine grows it.
  sfdisk --quiet "$volume.new" <<<"label: gpt
start=1MiB, size=${megabytes_of_image}MiB, type=linux, uuid=$partition"
  mkfs.ext4 -q -d "$folder/root" -E offset=1048576 "$volume.new" "${megabytes_of_image}M"
  umount "$folder/root"
  rm -rf "$folder"/{changes,work,root}
  mv "$volume.new" "$volume"
fi

credentials=()
for file in "$folder"/credentials/*; do
  [ -e "$file" ] || continue
  credentials+=(-smbios "type=11,value=io.systemd.credential.binary:${file##*/}=$(base64 -w 0 "$file")")
done

last=${address##*.}
printf -v hex '%02x' "$last"
printf -v serial 'ec2%05x-0000-4000-8000-0000000000%s' "$$" "$hex"
# Power button and power supply: a pipe to the monitor, and its answers.
rm -f "$folder"/monitor.*
mkfifo "$folder"/monitor.{in,out}

# shellcheck disable=SC2054  # the commas are qemu's
arguments=(
  -name "salebell-$last" -no-user-config -nodefaults -display none -no-reboot
  # A subset of what a guest sees on Nitro: ACPI, PCI, NVMe, a serial port for the console.
  -machine pc -cpu max -smp 2 -m 2048
  -accel "${SALEBELL_VM_ACCELERATOR:-tcg}"
  # cloud-init recognizes EC2 by this.
  -smbios "type=1,manufacturer=Amazon EC2,product=t3.small,uuid=$serial,serial=$serial"
  "${credentials[@]}"
  # Two minutes slow, which the machine must correct.
  -rtc "base=$(date --utc --date='-2 minutes' +%Y-%m-%dT%H:%M:%S)"
  # Without a boot loader. `panic` stops a machine without a root file system, instead of a shell on its console;
  # `no_timer_check`, because an emulated timer is late while this machine has much other work.
  -kernel "$kernel" -initrd "$initrd"
  -append "root=PARTUUID=$partition ro console=tty0 console=ttyS0,115200 panic=1 no_timer_check"
  -drive "file=$volume,format=raw,if=none,id=volume,cache=unsafe,discard=unmap"
  -device nvme,drive=volume,serial=vol0000000000000001
  # Removed with the process that has opened it.
  -netdev "tap,id=network,ifname=v$$,script=scripts/lib/join-bridge.sh,downscript=no"
  -device "virtio-net-pci,netdev=network,mac=02:00:0a:4d:00:$hex"
  -chardev stdio,id=console,signal=off -serial chardev:console
  -chardev "file,id=report,path=$folder/report,append=on" -serial chardev:report
  -chardev "pipe,id=monitor,path=$folder/monitor" -mon chardev=monitor
)
# pdeathsig: the machine also ends if this script is killed with SIGKILL.
setpriv --pdeathsig KILL qemu-system-x86_64 "${arguments[@]}" </dev/null &
machine=$!
# Opened for reading and writing: writing to a pipe without a reader must not block.
exec 8<>"$folder/monitor.in"
trap 'echo system_powerdown >&8' INT TERM

# The caller is gone.
(
  exec 8>&-
  while read -r _; do :; done
  kill -KILL "$machine" 2>/dev/null || true
) <&0 &
watcher=$!

# The caller may no longer read the output.
trap '' PIPE
# A signal interrupts `wait`, but not the process that it waits for.
status=0
while kill -0 "$machine" 2>/dev/null; do
  status=0
  wait "$machine" || status=$?
done
kill "$watcher" 2>/dev/null || true
rm -f "$folder"/monitor.*
exit "$status"
