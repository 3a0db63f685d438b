#!/usr/bin/env bash
# remove-folder.sh FOLDER: removes a folder of a bake, which may contain a root file system with files of many users,
# and ends what still runs in it: bake.sh keeps all its processes in a control group named after the folder.
set -euo pipefail
folder=$1
[ -e "$folder" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
  exec sudo "$0" "$folder"
fi
# shellcheck source=scripts/lib/control-groups.sh
. "$(dirname "$0")/../../scripts/lib/control-groups.sh"
if groups=$(control_groups 2>/dev/null); then
  remove_group "$groups/salebell-$(basename "$folder")"
fi
rmdir "/run/systemd/nspawn/propagate/salebell-$(basename "$folder")" 2>/dev/null || true
rm -rf --one-file-system "$folder"
