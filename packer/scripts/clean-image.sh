#!/usr/bin/env bash
# In the image, as the last step but validate-image.sh, with which it is paired: takes away what carried the bake (SSH,
# sudo, the user) and whatever would differ between two bakes or be shared by all instances (keys, ids, logs, caches).
#   --list-removed: only names the packages that would go.
set -euo pipefail
carriers=(openssh-server openssh-client openssh-sftp-server sudo)
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

if [ "${1:-}" = --list-removed ]; then
  apt-get --simulate purge --auto-remove "${carriers[@]}" | awk '$1 == "Purg" { print $2 }'
  exit
fi

if ! [ -e /tmp/salebell-bake/contents/manifest.json ]; then
  echo "this is no machine that an image is baked on" >&2
  exit 1
fi

# The manifest first: the cleanup removes its folder.
contents=/tmp/salebell-bake/contents
install -d -m 0755 /usr/share/salebell
install -m 0444 "$contents"/{manifest.json,sbom.cdx.json,packages.tsv,files.sha256} /usr/share/salebell/

# The session that runs this script outlives its server, because Debian's unit ends only the main process. Removing sudo
# normally requires a root password, which is pointless here.
rm -f /usr/sbin/policy-rc.d /etc/ssh/sshd_config.d/* /etc/sudoers.d/*
if ! log=$(SUDO_FORCE_REMOVE=yes apt-get -qq -o Dpkg::Use-Pty=0 purge --auto-remove -y "${carriers[@]}" 2>&1); then
  printf '%s\n' "$log" >&2
  exit 1
fi
userdel --force --remove admin 2>/dev/null || ! id admin 2>/dev/null
rm -rf /etc/ssh /etc/sudoers*
find /home /root -mindepth 1 -delete

# Documentation, which is useless on a server. Licences stay.
find /usr/share/doc -mindepth 1 \( -type f -o -type l \) -not -name copyright -delete
find /usr/share/doc -mindepth 1 -depth -type d -empty -delete
rm -rf /usr/share/{man,info,locale,lintian,bug,doc-base,pixmaps,applications,bash-completion,zsh}

# Caches that Debian's package tools wrote when they ran: Python does not write them identically each time.
rm -rf /usr/share/python3/debpython/__pycache__

# apt and dpkg: no lists, no caches, no history, no settings of the bake.
apt-get clean
rm -rf /var/lib/apt/lists/* /var/lib/apt/{periodic,extended_states}* /var/backups/*
rm -f /etc/{dpkg/dpkg.cfg.d,apt/apt.conf.d}/*mmdebstrap* /var/lib/dpkg/{*-old,lock*,triggers/Lock} /etc/.pwd.lock

# State that each instance creates for itself: its id, its random seed, its name, cloud-init's records, stamps and
# clocks.
rm -rf /var/lib/cloud/* /etc/netplan /etc/network/interfaces*
rm -rf /var/lib/systemd/{random-seed,credential.secret,timesync,timers,linger,coredump}
rm -rf /var/lib/amazon/* /opt/aws/amazon-cloudwatch-agent/{logs,var}/*
rm -f /etc/machine-info /var/lib/dbus/machine-id /etc/hostname /etc/{passwd,shadow,group,gshadow,subuid,subgid}-
: >/etc/machine-id
ln -sfn ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >/etc/hosts
# The date of the last change of a password that does not exist.
sed -i -E 's/^([^:]*:[^:]*:)[0-9]*:/\1:/' /etc/shadow

# Logs: the journal continues in memory until the machine is off.
journalctl --quiet --relinquish-var 2>/dev/null || true
find /var/log -mindepth 1 -not -type d -delete
rm -rf /var/log/journal/* /var/tmp/*
find /usr /etc \( -name '*.dpkg-old' -o -name '*.dpkg-dist' -o -name '*.ucf-*' \) -type f -delete
ldconfig
rm -rf /var/cache/*

# Marks the caches below /etc and /var as up to date with /usr: no instance has to rebuild them when it boots.
: >/etc/.updated
: >/var/.updated

# Nothing is younger than the commit.
"$(dirname "$0")/set-times.sh" /
