#!/usr/bin/env bash
# plain-unit.sh FILE: prints a service of the appliance (systemd/system) as a machine has it that is nobody's instance: its
# settings are in /etc/salebell/config.toml, it starts by itself at boot, and its end is not the machine's. Fails where the
# file has not what is left out here, or has more of it.
set -euo pipefail
file=${1:?a service of the appliance}

# What stands for what. Comments speak of the instance.
plain=$(sed -E '/^#/d
  s|^Requires=salebell-boot\.service$|Wants=network-online.target|
  s|^After=salebell-boot\.service network-online\.target$|After=network-online.target postgresql.service|
  /^OnFailure=salebell-boot-failed\.service$/d
  s|^LoadCredential=config\.toml:/run/salebell/config\.toml$|LoadCredential=config.toml:/etc/salebell/config.toml|
  /^EnvironmentFile=\/run\/salebell\/instance\.env$/d' "$file")
for line in 'Wants=network-online.target' 'After=network-online.target postgresql.service' \
  'LoadCredential=config.toml:/etc/salebell/config.toml'; do
  if ! grep -qxF "$line" <<<"$plain"; then
    echo "$file is written in another way now: there is nothing that becomes $line" >&2
    exit 1
  fi
done
if more=$(grep -E '/run/salebell|salebell-(boot|ready|terminating)|instance' <<<"$plain"); then
  echo "$file has what a plain machine has not: $more" >&2
  exit 1
fi
name=$(basename "$file")
cat <<END
# ${name%.service} on a plain machine. It wants /etc/salebell/config.toml, which only root and the group salebell read.
$plain

[Install]
WantedBy=multi-user.target
END
