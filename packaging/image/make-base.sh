#!/usr/bin/env bash
# make-base.sh ARCHITECTURE: makes the file system below the OCI image, of the Debian that the machine image is made of, as
# a tar file: the C library, root certificates and what names things. No shell, no package manager. Prints its path; it is
# made once a month for this very file. Wants no root, and runs nothing that it unpacks.
set -euo pipefail
cd "$(dirname "$0")/../.."
architecture=${1:?amd64 or arm64}
# What the binary is linked against (dpkg-shlibdeps says so of the Debian package), names of services for getaddrinfo, and
# /etc/os-release, by which scanners know whose packages they see.
packages=(base-files ca-certificates libc6 libgcc-s1 netbase)
release=$(sed -n 's/^debian_release *= *"\(.*\)"/\1/p' packer/versions.pkrvars.hcl)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/salebell/packages
key=$(printf '%s\n' "$release" "$architecture" "$(date +%Y-%m)" "$(cat packaging/image/make-base.sh)" | sha256sum | cut -c 1-12)
base=$folder/base-$release-$architecture-$key.tar
mkdir -p "$folder"
# Two at once: the second one waits, and finds it.
exec 9>"$folder/base.lock"
flock 9
if [ -s "$base" ]; then
  touch "$base"
  echo "$base"
  exit
fi
echo "==> making the base of the OCI image with mmdebstrap: ${packages[*]}" >&2
find "$folder" -name 'base-*.tar' -mtime +31 -delete
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
# mmdebstrap finds and verifies the packages. They are taken apart here: nothing of them is run, so that there is neither a
# shell nor a dpkg to run it with.
cat >"$work/fetch.sh" <<'FETCH'
set -eu
cd "$2"
shift 2
apt-get -qq -o APT::Sandbox::User=root download "$@"
FETCH
mkdir "$work/packages" "$work/root"
chmod 0777 "$work/packages"
chmod 0755 "$work"
mmdebstrap --quiet --mode=auto --variant=custom --architectures="$architecture" \
  --customize-hook="sh '$work/fetch.sh' \"\$1\" '$work/packages' ${packages[*]}" "$release" /dev/null >&2

root=$work/root
mkdir -p "$root"/usr/{bin,lib,sbin} "$root/var/lib/dpkg/status.d"
ln -s usr/bin usr/lib usr/sbin "$root/"
[ "$architecture" != amd64 ] || { mkdir "$root/usr/lib64" && ln -s usr/lib64 "$root/"; }
for package in "${packages[@]}"; do
  deb=$(find "$work/packages" -name "${package}_*.deb")
  # Through the links above: a package may have /lib in it.
  dpkg-deb --fsys-tarfile "$deb" | tar --extract --keep-directory-symlink --no-same-owner --preserve-permissions --directory "$root"
  # Where scanners look for packages in an image without dpkg.
  dpkg-deb --field "$deb" >"$root/var/lib/dpkg/status.d/$package"
done
# Converters between encodings, manuals, what a person at a prompt sees: nobody is there.
rm -rf "$root"/usr/lib/*/gconv "$root"/usr/share/{man,info,lintian,base-files,bug,locale} "$root"/etc/{update-motd.d,skel,issue*}
find "$root/usr/share/doc" -type f -not -name copyright -delete
find "$root/usr/bin" "$root/usr/sbin" -mindepth 1 -delete
# What update-ca-certificates makes of them, in the order of their names.
mkdir -p "$root/etc/ssl/certs"
find "$root/usr/share/ca-certificates/mozilla" -name '*.crt' -print0 | LC_ALL=C sort -z | xargs -0 awk 1 \
  >"$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root/usr/share/ca-certificates"
tar --create --sort=name --numeric-owner --owner=0 --group=0 --mtime=@0 --directory "$root" --file "$work/base.tar" .
mv "$work/base.tar" "$base"
echo "$base"
