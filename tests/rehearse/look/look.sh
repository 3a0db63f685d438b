#!/bin/bash
# What a virtual machine of a rehearsal tells of itself, on its second serial port: facts, a line each, and what
# check-instance.sh says.
exec >/dev/ttyS1 2>&1 </dev/null
milliseconds() {
  echo $(($(systemctl show --property "$2" --value ${1:+"$1"}) / 1000))
}
echo "fact systemd-ms $(milliseconds '' UserspaceTimestampMonotonic)"
echo "fact multi-user-ms $(milliseconds multi-user.target ActiveEnterTimestampMonotonic)"
echo "fact ready-ms $(milliseconds salebell-ready.service ActiveEnterTimestampMonotonic)"
echo "fact kernel $(uname -r)"
echo "fact machine-id $(cat /etc/machine-id)"
echo "fact boot-id $(cat /proc/sys/kernel/random/boot_id)"
# Kept by the journal, so that two boots are those of one machine.
echo "fact boots $(journalctl --list-boots --quiet | grep -c .)"
echo "fact cloud $(cloud-id)"
echo "fact root $(findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS / | tr -s ' ')"
echo "fact root-megabytes $(df --block-size=1M --output=size / | tail -n 1 | tr -d ' ')"
echo "fact address $(ip -4 -oneline address show scope global | awk '{ print $2, $4 }')"
echo "fact resolver $(resolvectl dns | sed -n 's/^Link [0-9]* (.*): *//p')"
errors() {
  journalctl --boot --quiet --no-pager --priority=err --output=cat "$@" | sort -u
}
errors _TRANSPORT=journal _TRANSPORT=syslog _TRANSPORT=stdout | sed 's/^/error /'
# What it has against emulated hardware is told, and no fault of the image.
errors _TRANSPORT=kernel | sed 's/^/kernel /'
/usr/lib/salebell/check-instance.sh | sed 's/^/check /'
echo "fact clock $(date +%s)"
echo end
