#!/bin/bash
# Looks at a booted instance, as root on it: is it what it should be, and nothing besides? Prints a line for each check and
# ends with 1 when one has failed.
#   check-instance.sh            all checks
#   check-instance.sh NAME…      these; check-instance.sh --list names them
# It changes nothing. What it takes for good on every instance of Debian is in the lists below.
set -u
export LC_ALL=C

services=(salebell-api salebell-worker salebell-terminating)
# The journal, for the agent that the image has on AWS.
[ ! -e /opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent ] || services+=(salebell-logs)
# Files on EFS, and the tunnel that leads there.
[ ! -e /run/salebell/efs.conf ] || services+=(salebell-efs)
# Listens where nobody else can reach it: systemd-resolved, and DHCP.
other_listeners='^(udp|tcp) 127\.0\.0\.5[34](%lo)?:53 |^udp ([0-9.]+|\[[0-9a-f:]+\])(%[a-z0-9]+)?:(68|546) '
# What the machine itself has running (hostnamed for half a minute, when DHCP has told a name), the agents that the image
# has on AWS, and ours.
running='^(cloud-init-main|cloud-final|dbus|systemd-(hostnamed|journald|logind|networkd|resolved|timesyncd|udevd|userdbd|machine-id-commit)|amazon-ssm-agent|amazon-cloudwatch-agent|salebell-(api|worker|terminating|logs|efs))\.service$'
# What starts by itself: the presets of the image name the same, and generators make some more, of fstab.
enabled='^(systemd-(remount-fs|fsck-root|growfs-root)\.service|cloud-init\.target|systemd-(networkd|networkd-wait-online|network-generator|resolved|timesyncd|pstore)\.service|systemd-(networkd|networkd-[a-z-]+|journald-audit)\.socket|(remote-fs|reboot)\.target|cloud-(config|final|init|init-local|init-main|init-network)\.service|amazon-(ssm|cloudwatch)-agent\.service|salebell-overdue\.timer|salebell-logs\.service)$'
# A shell: nobody. The agent starts that of a session itself, for salebell-shell; a session that is not by our document would
# make an account ssm-user.
may_have_shell='^$'
# Files that lend the rights of their owner or group to whoever runs them: none.
may_lend='^$'
# From the start of our first unit to the end of the last, in milliseconds; and the whole, from the first process on.
own_limit_ms=${SALEBELL_CHECK_OWN_MS:-1000}
boot_limit_ms=${SALEBELL_CHECK_BOOT_MS:-30000}

# none WHAT: fails with every line of its input.
none() {
  local found
  found=$(cat)
  [ -z "$found" ] && return 0
  echo "$1: $(echo "$found" | head -n 5 | paste -sd ' ')"
  return 1
}
pid_of() {
  systemctl show --property MainPID --value "$1"
}
# The address of a listener of ours, as the settings have it.
setting() {
  awk -v area="[$1]" -v key="$2" '
    /^\[/ { inside = ($0 == area) } inside && $1 == key { gsub(/"/, "", $3); print $3 }' /run/salebell/instance.toml
}

check_units() { # nothing failed, all of ours are there
  systemctl list-units --failed --plain --no-legend | awk '{ print $1 }' | none 'failed' || return
  local unit state
  for unit in salebell.target salebell-boot salebell-ready "${services[@]}"; do
    state=$(systemctl is-active "$unit") || { echo "$unit is $state"; return 1; }
  done
  systemctl list-units --type service --state running --plain --no-legend | awk '{ print $1 }' |
    grep -Ev "$running" | none 'runs and should not'
}
check_enabled() { # only what the image wants starts by itself
  systemctl list-unit-files --state enabled,enabled-runtime --plain --no-legend | awk '{ print $1 }' |
    grep -Ev "$enabled" | none 'enabled and should not be' || return
  systemctl is-enabled --quiet salebell-overdue.timer || { echo 'salebell-overdue.timer is not enabled'; return 1; }
}
check_listeners() { # ours and no other
  local api grpc port found
  api=$(setting server listen)
  grpc=$(setting server grpc_listen)
  port=${api##*:}
  # Off: no port of its own.
  case $grpc in '' | off) grpc=$port ;; *) grpc=${grpc##*:} ;; esac
  # tcp 0.0.0.0:8443 users:(("salebell",pid=1,fd=1))
  found=$(ss --no-header --listening --tcp --udp --numeric --processes | awk '{ print $1, $5, $7 }')
  echo "$found" | grep -Ev "$other_listeners" |
    grep -Ev '^tcp 127\.0\.0\.1:20049 .*"stunnel"' |
    grep -Ev "^tcp ([0-9a-f.:*]+|\[[0-9a-f:]*\]):($port|$grpc) .*\"salebell\"|^tcp 127\.0\.0\.1:(9100|9101) .*\"salebell\"" |
    none 'listens and should not' || return
  local wanted
  for wanted in "$port" "$grpc" 9100 9101; do
    echo "$found" | grep -q ":$wanted .*salebell" || { echo "nobody of ours listens on $wanted"; return 1; }
  done
}
check_ssh() { # no server, no keys
  { command -v sshd dropbear; find /etc/ssh /root/.ssh /home -name '*host*key*' -o -name authorized_keys; } 2>/dev/null |
    none 'SSH' || return
  systemctl list-unit-files --plain --no-legend 'ssh*.service' 'ssh*.socket' | awk '$2 != "masked" { print $1 }' | none 'units of SSH'
}
check_logins() { # no password, no shell, no prompt
  awk -F: '$2 !~ /^[!*]/ { print $1 }' /etc/shadow | none 'has a password, or needs none' || return
  awk -F: '$7 !~ /\/(nologin|false)$/ { print $1 }' /etc/passwd | grep -Ev "$may_have_shell" | none 'has a shell' || return
  systemctl list-units --plain --no-legend '*getty@*' console-getty.service debug-shell.service |
    awk '{ print $1 }' | none 'a prompt' || return
  local user
  for user in salebell salebell-boot salebell-logs salebell-shell; do
    [ "$(getent passwd "$user" | cut -d: -f7)" = /usr/sbin/nologin ] || { echo "$user has a shell, or is not there"; return 1; }
  done
}
check_writable() { # by everybody: nothing but folders where nobody touches what is another's
  local places=(/)
  # Each is a file system of its own on some machines.
  places+=(/run /var /tmp /dev/shm /etc)
  find "${places[@]}" -xdev \( -type f -perm -0002 -o -type d -perm -0002 -not -perm -1000 \) -print 2>/dev/null |
    sort -u | none 'writable by everybody'
}
check_lending() { # no set-uid and no set-gid program, and no file with capabilities
  find / -xdev -type f -perm /6000 -print 2>/dev/null | grep -Ev "$may_lend" | none 'lends its rights' || return
  # getcap is not there; the attribute is listed all the same.
  python3 - <<'PYTHON' | none 'has capabilities'
import os
for folder in ("/usr", "/opt"):
    for at, _, names in os.walk(folder):
        for path in (os.path.join(at, name) for name in names):
            try:
                if "security.capability" in os.listxattr(path, follow_symlinks=False):
                    print(path)
            except OSError:
                pass
PYTHON
}
check_ours() { # what we have installed belongs to root, and is as it was
  find /usr/bin/salebell /usr/lib/salebell /usr/lib/systemd/system/salebell* \( -not -user root -o -perm /0022 \) -print |
    none 'others may change it' || return
  # A drop-in or a unit beside the image's is a change that was made by hand.
  find /etc/systemd/system /run/systemd/system -name '*salebell*' -not -path '*.wants/*' -print 2>/dev/null |
    none 'changed on this machine'
}
check_secrets() { # for systemd alone; each service has its own copy
  local file
  for file in config.toml instance.toml; do
    [ "$(stat -c '%U %a' "/run/salebell/$file")" = 'salebell-boot 400' ] || { stat -c '%n is of %U, mode %a' "/run/salebell/$file"; return 1; }
  done
  # In no environment and no list of arguments.
  local service pid
  for service in "${services[@]}" salebell-ready salebell-boot; do
    systemctl show --property Environment --value "$service" | grep -i 'password\|secret\|://' | none "$service" || return
    pid=$(pid_of "$service")
    [ "$pid" = 0 ] || tr '\0' '\n' <"/proc/$pid/environ" | grep -iE 'password|encryption_key|postgres://' | none "$service" || return
  done
}
check_sandbox() { # each service: no rights, no new ones, filtered calls, a file system that is read-only but for its own
  local service pid writable
  for service in "${services[@]}"; do
    pid=$(pid_of "$service")
    [ "$pid" != 0 ] || { echo "$service does not run"; return 1; }
    awk -v service="$service" '
      /^Uid:/ && ($2 == 0 || $3 == 0) { print service " runs as root" }
      /^Cap(Eff|Prm|Bnd|Amb):/ && $2 !~ /^0+$/ { print service " has " $1 $2 }
      /^NoNewPrivs:/ && $2 != 1 { print service " may get new rights" }
      /^Seccomp:/ && $2 != 2 { print service " may make any call" }' "/proc/$pid/status" | none 'not held' || return
    # What is mounted for writing, but for what holds no files; a mount may be hidden below another, so each is tried.
    writable=$(awk '{ for (i = 7; $i != "-"; i++); split($6, options, ",")
        if (options[1] == "rw" && $(i + 1) ~ /^(ext[234]|xfs|btrfs|vfat|overlay|tmpfs|nfs4?)$/) print $5 }' "/proc/$pid/mountinfo" |
      sort -u | grep -Ev '^(/tmp|/var/tmp|/dev|/dev/shm|/var/lib/salebell(/.*)?|/var/log/salebell|/run/credentials/.*|/run/host/.*)$' |
      while read -r place; do
        [ ! -w "/proc/$pid/root$place" ] || echo "$place"
      done)
    echo "$writable" | grep . | none "$service may write to" || return
    local place
    for place in /usr /etc /var/lib/dpkg; do
      [ ! -w "/proc/$pid/root$place" ] || { echo "$service may write to $place"; return 1; }
    done
  done
}
check_files() { # where they are: on EFS with its setting, and else on the local disk
  local place=/var/lib/salebell/files found
  found=$(findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS --mountpoint "$place" | tr -s ' ')
  if [ ! -e /run/salebell/efs.conf ]; then
    echo "$found" | none 'is mounted without files.efs'
    return
  fi
  local option
  for option in nfs4 vers=4.1 softerr port=20049 addr=127.0.0.1 nosuid nodev noexec; do
    [[ " ${found//,/ } " == *" $option "* ]] || { echo "$place: ${found:-not mounted}, without $option"; return 1; }
  done
  # By number: EFS knows no names.
  [ "$(stat -c '%u:%g' "$place")" = 650:650 ] || { stat -c '%n belongs to %u:%g' "$place"; return 1; }
  echo "on ${found%% *}"
}
check_exposure() { # at most 1.5
  local unit
  for unit in "${services[@]}"; do
    systemd-analyze security --no-pager --threshold=15 "$unit.service" >/dev/null ||
      { systemd-analyze security --no-pager "$unit.service" | tail -n 1; return 1; }
  done
}
check_clock() { # by the Amazon Time Service alone
  systemd-analyze cat-config systemd/timesyncd.conf | awk -F= '/^(Fallback)?NTP=/ { value[$1] = $2 }
    END { if (value["NTP"] != "169.254.169.123" || value["FallbackNTP"] != "") print value["NTP"], value["FallbackNTP"] }' |
    none 'asks another clock' || return
  systemctl is-enabled --quiet systemd-timesyncd || { echo 'systemd-timesyncd is not enabled'; return 1; }
  # A container has its host's clock, and systemd does not touch that.
  systemd-detect-virt --quiet --container && return
  # timedatectl would start a service to tell the same.
  [ -e /run/systemd/timesync/synchronized ] || { echo 'not synchronised'; return 1; }
}
# Of a unit or of the machine, in milliseconds.
moment() {
  local us
  us=$(systemctl show --property "$2" --value ${1:+"$1"})
  echo $((${us:-0} / 1000))
}
check_time() { # to ready: our units, and the whole
  local begun settings ready first
  begun=$(moment salebell-boot InactiveExitTimestampMonotonic)
  settings=$(moment salebell-boot ActiveEnterTimestampMonotonic)
  ready=$(moment salebell-ready ActiveEnterTimestampMonotonic)
  first=$(moment '' UserspaceTimestampMonotonic)
  # On a machine of its own the clock begins with the kernel.
  systemd-detect-virt --quiet --container || first=0
  if [ "$begun" -eq 0 ] || [ "$ready" -lt "$begun" ]; then
    echo 'it was never ready'
    return 1
  fi
  echo "$((ready - begun)) ms ($((settings - begun)) for the settings), $((ready - first)) ms from the start"
  [ $((ready - begun)) -le "$own_limit_ms" ] && [ $((ready - first)) -le "$boot_limit_ms" ]
}
check_journal() { # structured, kept, and of a limited size
  local port
  port=$(setting server listen)
  curl --silent --insecure --max-time 5 "https://127.0.0.1:${port##*:}/check-instance" >/dev/null || { echo 'the API does not answer'; return 1; }
  local field line until=$((SECONDS + 3))
  while [ "$SECONDS" -lt "$until" ]; do
    line=$(journalctl --unit salebell-api --output json --reverse --lines 50 --quiet | grep -m 1 '"REQUEST_ID"')
    [ -n "$line" ] && break
    sleep 0.2
  done
  for field in REQUEST_ID DURATION_MS TARGET PRIORITY MESSAGE SYSLOG_IDENTIFIER; do
    echo "$line" | grep -q "\"$field\"" || { echo "a request has no $field in the journal"; return 1; }
  done
  [ -d /var/log/journal ] || { echo 'the journal is not kept'; return 1; }
  systemd-analyze cat-config systemd/journald.conf | awk -F= '/^SystemMaxUse=/ { limit = $2 } END { exit limit == "" }' ||
    { echo 'the journal has no limit'; return 1; }
}
check_ready() { # /readyz
  local port
  port=$(setting server listen)
  curl --silent --show-error --fail --insecure --max-time 5 --output /dev/null "https://127.0.0.1:${port##*:}/readyz" 2>&1
}

mapfile -t all < <(declare -F | awk '{ print $3 }' | grep '^check_' | sed 's/^check_//')
if [ "${1:-}" = --list ]; then
  printf '%s\n' "${all[@]}"
  exit
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "an instance is looked at by root" >&2
  exit 2
fi
[ $# -gt 0 ] || set -- "${all[@]}"
# Not before the boot is over, whatever it came to.
timeout 30 systemctl is-system-running --wait >/dev/null
failures=0
for name in "$@"; do
  if ! declare -F "check_$name" >/dev/null; then
    echo "there is no check $name; --list names them" >&2
    exit 2
  fi
  if said=$("check_$name" 2>&1); then
    outcome=ok
  else
    outcome=FAILED
    failures=$((failures + 1))
  fi
  printf '%-10s %-6s %s\n' "$name" "$outcome" "$said"
done
echo "$# checks, $failures failed"
[ "$failures" -eq 0 ]
