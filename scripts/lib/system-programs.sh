# shellcheck shell=bash
# Sourced: puts the programs of administrators (chroot, ip, mkfs.ext4, haproxy) into PATH. A user's PATH has no sbin,
# nor has root's after `su` without a dash; and a script that continues with sudo keeps its PATH.
for folder in /usr/local/sbin /usr/sbin /sbin; do
  case :$PATH: in
    *:$folder:*) ;;
    *) PATH=$PATH:$folder ;;
  esac
done
export PATH
