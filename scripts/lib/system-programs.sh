# shellcheck shell=bash
# Sourced: puts the programs of administrators (chroot, ip, mkfs.ext4, haproxy) into PATH. That of a user has no sbin, nor
# has that of root after `su` without a dash; and a script that goes on with sudo takes PATH along.
for folder in /usr/local/sbin /usr/sbin /sbin; do
  case :$PATH: in
    *:$folder:*) ;;
    *) PATH=$PATH:$folder ;;
  esac
done
export PATH
