#!/usr/bin/env bash
# In the image: nobody logs in, nothing raises its rights, nothing updates itself, only what the presets name starts.
set -euo pipefail
if ! [ -d /tmp/salebell-bake ]; then
  echo "this is no machine that an image is baked on" >&2
  exit 1
fi

# What the presets name, and nothing else, starts. Without the units of the machine that bakes (/run/systemd), some of
# which are masked there. preset-all goes on after a failure and calls it none.
told=$(unshare --mount sh -c 'mount -t tmpfs tmpfs /run/systemd && systemctl --quiet --root=/ preset-all' 2>&1)
if [ -n "$told" ]; then
  printf '%s\n' "$told" >&2
  exit 1
fi
systemctl --quiet --root=/ set-default multi-user.target

# No prompt on any console. A shell is an audited session of Systems Manager.
systemctl --quiet --root=/ mask getty@.service serial-getty@.service console-getty.service container-getty@.service \
  autovt@.service getty.target debug-shell.service emergency.service rescue.service
# Identical images stay identical.
systemctl --quiet --root=/ mask apt-daily.timer apt-daily.service apt-daily-upgrade.timer apt-daily-upgrade.service \
  dpkg-db-backup.timer

# Accounts: no password, no shell.
awk -F: '{ print $1 }' /etc/passwd | while read -r user; do
  if [ "$user" != admin ]; then # the bake's own; clean-image.sh removes it
    usermod --lock --shell /usr/sbin/nologin "$user"
  fi
done

# Services get their rights from systemd; no file has to lend any.
find / -xdev -type f -perm /6000 -not -path /usr/bin/sudo -exec chown root:root {} + -exec chmod ug-s {} +
