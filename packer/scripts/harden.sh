#!/usr/bin/env bash
# In the image: no log-ins, no escalation of privileges, no automatic updates, and only the units in the presets start.
set -euo pipefail
if ! [ -d /tmp/salebell-bake ]; then
  echo "this is no machine that an image is baked on" >&2
  exit 1
fi

# Only the units in the presets start. Runs without the units of the baking machine (/run/systemd), some of which are
# masked there. preset-all continues after a failure and does not report it.
told=$(unshare --mount sh -c 'mount -t tmpfs tmpfs /run/systemd && systemctl --quiet --root=/ preset-all' 2>&1)
if [ -n "$told" ]; then
  printf '%s\n' "$told" >&2
  exit 1
fi
systemctl --quiet --root=/ set-default multi-user.target

# No log-in prompt on any console. A shell is an audited session of Systems Manager.
systemctl --quiet --root=/ mask getty@.service serial-getty@.service console-getty.service container-getty@.service \
  autovt@.service getty.target debug-shell.service emergency.service rescue.service
# Identical images stay identical.
systemctl --quiet --root=/ mask apt-daily.timer apt-daily.service apt-daily-upgrade.timer apt-daily-upgrade.service \
  dpkg-db-backup.timer

# Accounts: no password, no shell.
awk -F: '{ print $1 }' /etc/passwd | while read -r user; do
  if [ "$user" != admin ]; then # the user of the bake; clean-image.sh removes it
    usermod --lock --shell /usr/sbin/nologin "$user"
  fi
done

# Services get their privileges from systemd; no file has to grant any.
find / -xdev -type f -perm /6000 -not -path /usr/bin/sudo -exec chown root:root {} + -exec chmod ug-s {} +
