#!/usr/bin/env bash
# run-in-debian.sh prepare | root | run PROGRAM [ARGUMENT…]: runs a test program in a bare root file system of the
# Debian release that the image is made of, with its OpenSSL, curl, PostgreSQL, Node and systemd, whatever this machine
# has. `prepare` makes the root, once for each list of packages and month, and is the only slow step; `root` also prints
# its folder. Needs root, or sudo.
#   SALEBELL_TEST_NODE_PATH  the folder of the Node clients
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib/system-programs.sh
. scripts/lib/system-programs.sh
# Programs that the tests call, and what they need of a machine; lintian and systemd's D-Bus are for tests/package.
packages=(ca-certificates curl dbus lintian nodejs openssl postgresql python3 systemd)

do=${1:?prepare, root or run}
shift
cache=${XDG_CACHE_HOME:-$HOME/.cache}/salebell
if [ "$(id -u)" -ne 0 ]; then
  exec sudo env "PATH=$PATH" "HOME=$HOME" "XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}" \
    "SALEBELL_TEST_NODE_PATH=${SALEBELL_TEST_NODE_PATH:-}" "$0" "$do" "$@"
fi
release=$(sed -n 's/^debian_release *= *"\(.*\)"/\1/p' packer/versions.pkrvars.hcl)
key=$(printf '%s\n' "$release" "$(date +%Y-%m)" "${packages[@]}" | sha256sum | cut -c 1-12)
root=$cache/roots/$release-$key

mkdir -p "$cache/roots"
# Of two concurrent runs, the second waits and then finds the root.
exec 9>"$root.lock"
flock 9
if ! [ -e "$root/complete" ]; then
  echo "==> making a bare root of Debian $release with mmdebstrap: ${packages[*]}" >&2
  find "$cache/roots" -mindepth 1 -maxdepth 1 -mtime +31 -exec rm -rf --one-file-system {} +
  rm -rf --one-file-system "$root"
  mkdir "$root"
  # No service in it starts by itself, and no PostgreSQL cluster is made. Manuals are left out.
  # shellcheck disable=SC2016 # the shell of mmdebstrap expands it
  mmdebstrap --quiet --mode=root --variant=apt --include="$(IFS=, && echo "${packages[*]}")" \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook='mkdir -p "$1/etc/postgresql-common/createcluster.d" &&
      echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.d/none.conf"' \
    "$release" "$root/root" >&2
  touch "$root/complete"
fi
exec 9>&-
case $do in
  prepare) exit ;;
  root)
    touch --no-create "$root/complete"
    echo "$root"
    exit
    ;;
esac

# In namespaces of its own, with which mounts and processes end.
if [ "${SALEBELL_RUN_INSIDE:-}" != yes ]; then
  folder=$(mktemp -d)
  trap 'rm -rf --one-file-system "$folder"' EXIT
  SALEBELL_RUN_INSIDE=yes SALEBELL_RUN_FOLDER=$folder unshare --mount --propagation private --pid --fork --kill-child \
    "$0" run "$@"
  exit
fi
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=$root/root,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
# show FOLDER: mounts it at the same path in the root.
show() {
  mkdir -p "/mnt/root$1"
  mount --rbind "$1" "/mnt/root$1"
}
mount -t proc proc /mnt/root/proc
show /dev
show /sys
# Databases are on a disk.
chmod 1777 "$SALEBELL_RUN_FOLDER"
mount --bind "$SALEBELL_RUN_FOLDER" /mnt/root/tmp
echo '127.0.0.1 localhost' >/mnt/root/etc/hosts
program=$(realpath "$1")
shift
# <target>/debug/deps/it-…: the salebell binary, and the folder for the files that tests write, are beside it.
for folder in "$PWD" "$(dirname "$(dirname "$(dirname "$program")")")" "${SALEBELL_TEST_NODE_PATH:+$(dirname "$SALEBELL_TEST_NODE_PATH")}"; do
  [ -z "$folder" ] || show "$folder"
done
# shellcheck disable=SC2016 # the shell in the root expands it
exec chroot /mnt/root env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
  SALEBELL_TEST_PYTHON=/usr/bin/python3 "SALEBELL_TEST_NODE_PATH=${SALEBELL_TEST_NODE_PATH:-}" \
  AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test \
  sh -c 'cd "$0" && exec scripts/with-postgres.sh "$@"' "$PWD" "$program" "$@"
