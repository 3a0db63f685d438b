# shellcheck shell=bash
# Sourced. Separate control groups for programs that boot a systemd: it treats its own control group as the root of all,
# and everything started in a group can be ended with it, to the last process.

# Prints where control groups of version 2 are mounted; fails if they are not.
control_groups() {
  awk '$3 == "cgroup2" { print $2; found = 1; exit } END { exit !found }' /proc/mounts || {
    echo "control groups of version 2 (cgroup2) are needed, and none are mounted here" >&2
    return 1
  }
}

# remove_group GROUP: ends the processes in a control group, and removes it.
remove_group() {
  local try
  for try in {1..50}; do
    [ -d "$1" ] || return 0
    if [ -e "$1/cgroup.kill" ]; then
      echo 1 >"$1/cgroup.kill"
    fi
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d "$1" ] || return 0
    sleep 0.1
  done
  echo "$1 cannot be removed after $try tries" >&2
}
