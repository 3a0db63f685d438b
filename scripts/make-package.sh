#!/usr/bin/env bash
# make-package.sh [deb|image]: makes the Debian package and the OCI image of the commit that is checked out, and prints their
# paths: salebell_VERSION_ARCH.deb and salebell_VERSION_ARCH.oci.tar in the folder `package` of the target folder. Both
# have the same binary. docs/guides/other-hosts.md
#   SALEBELL_BINARY           packs this binary instead of building the release
#   SALEBELL_PACKAGE_VERSION  the version; without it that of Cargo.toml, with the commit where it is not tagged
#   SALEBELL_PACKAGE_QUICK    not empty: packs loosely, for tests
#   SALEBELL_PACKAGES         folder of the results
#   DEBFULLNAME, DEBEMAIL     the maintainer of the package
#   SOURCE_DATE_EPOCH         seconds since 1970, the time of every file; without it the commit's
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-}
case $kind in '' | deb | image) ;; *)
  echo "deb, image, or nothing for both" >&2
  exit 1
  ;;
esac
say() {
  printf '==> [%3d s] %s\n' "$SECONDS" "$*" >&2
}
# shellcheck source=scripts/lib/require-rust.sh
. scripts/lib/require-rust.sh
# shellcheck source=scripts/lib/system-programs.sh
. scripts/lib/system-programs.sh
scripts/install-packages.sh package >&2

if [ -z "${SALEBELL_BINARY:-}" ]; then
  say "building the release binary"
  SALEBELL_BINARY=$(scripts/lib/build-appliance.sh)
fi
commit=$(git rev-parse HEAD)
dirty=$(git status --porcelain -- Cargo.toml Cargo.lock askama.toml build.rs proto core src migrations packaging systemd)
number=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
if [ -n "${SALEBELL_PACKAGE_VERSION:-}" ]; then
  version=$SALEBELL_PACKAGE_VERSION
elif [ -z "$dirty" ] && git tag --points-at HEAD | grep -qxF "v$number"; then
  version=$number
else
  # Sorts before the release with that number, and after every earlier commit.
  version=$number~$(TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd).${commit:0:9}${dirty:+.dirty}
fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8
umask 022
architecture=$(dpkg --print-architecture)
results=${SALEBELL_PACKAGES:-${CARGO_TARGET_DIR:-target}/package}
mkdir -p "$results"
results=$(realpath "$results")
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

# Content of both packages.
root=$work/root
share=$root/usr/share/doc/salebell
install -D -m 0755 "$SALEBELL_BINARY" "$root/usr/bin/salebell"
strip --remove-section=.comment --remove-section=.note "$root/usr/bin/salebell"
install -D -m 0644 packer/files/etc/salebell/rds.pem "$root/etc/salebell/rds.pem"
install -D -m 0644 packaging/debian/copyright "$share/copyright"
target=$(rustc -vV | sed -n 's/^host: //p')
cargo metadata --locked --format-version 1 --filter-platform "$target" | python3 packaging/list-crates.py >"$share/crates.tsv"

make_deb() {
  local deb=$work/deb place
  cp -a "$root" "$deb"
  place=$deb/usr/share/doc/salebell
  install -D -m 0600 packaging/debian/config.toml "$deb/etc/salebell/config.toml"
  mkdir -p "$deb/usr/lib/systemd/system" "$deb/usr/lib/sysusers.d" "$deb/usr/share/man/man1" "$deb/usr/share/lintian/overrides"
  local unit
  for unit in salebell-api salebell-worker; do
    packaging/plain-unit.sh "systemd/system/$unit.service" >"$deb/usr/lib/systemd/system/$unit.service"
  done
  install -D -m 0644 -t "$deb/usr/lib/systemd/system/salebell-.service.d" systemd/system/salebell-.service.d/hardening.conf
  # With the same number as on instances: it owns the files on network file systems.
  grep -E '^(#|u +salebell +)' systemd/sysusers.d/salebell.conf | grep -v '^# Whoever' >"$deb/usr/lib/sysusers.d/salebell.conf"
  gzip -9n <packaging/debian/salebell.1 >"$deb/usr/share/man/man1/salebell.1.gz"
  cp packaging/debian/lintian-overrides "$deb/usr/share/lintian/overrides/salebell"
  cp packaging/debian/README.Debian "$place/"
  local page
  for page in settings metrics commands; do
    gzip -9n <"docs/reference/$page.md" >"$place/$page.md.gz"
  done
  gzip -9n <CHANGELOG.md >"$place/CHANGELOG.md.gz"
  local maintainer="${DEBFULLNAME:-The Salebell authors} <${DEBEMAIL:-salebell@packages.invalid}>"
  gzip -9n >"$place/changelog.gz" <<END
salebell ($version) unstable; urgency=medium

  * Made of commit ${commit:0:12}; CHANGELOG.md.gz tells what users notice.

 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END

  # The libraries that the binary needs, as determined by Debian's own tool.
  mkdir -p "$work/source/debian" "$deb/DEBIAN"
  sed "s/@MAINTAINER@/$maintainer/" packaging/debian/control >"$work/source/debian/control"
  local libraries
  libraries=$(cd "$work/source" && dpkg-shlibdeps -O -e"$deb/usr/bin/salebell" | sed -n 's/^shlibs:Depends=//p')
  {
    echo "Package: salebell"
    echo "Version: $version"
    echo "Architecture: $architecture"
    echo "Maintainer: $maintainer"
    echo "Installed-Size: $(du -k -s --apparent-size --exclude=DEBIAN "$deb" | cut -f 1)"
    sed -e '1,/^Package:/d' -e '/^Architecture:/d' -e "s/@LIBRARIES@/$libraries/" packaging/debian/control |
      sed '/^Suggests:/a Section: web\nPriority: optional'
  } >"$deb/DEBIAN/control"
  (cd "$deb" && find etc -type f -printf '/%p\n' | sort >DEBIAN/conffiles &&
    find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
  install -m 0755 packaging/debian/{postinst,prerm,postrm} "$deb/DEBIAN/"
  find "$deb" -exec touch --no-dereference -d "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group ${SALEBELL_PACKAGE_QUICK:+-Zgzip -z1} --build "$deb" "$work/package.deb" >/dev/null
  mv "$work/package.deb" "$results/salebell_${version}_$architecture.deb"
  say "made the package"
  echo "$results/salebell_${version}_$architecture.deb"
}

make_image() {
  local base
  base=$(packaging/image/make-base.sh "$architecture")
  python3 packaging/image/write-image.py --base "$base" --root "$root" --architecture "$architecture" \
    --version "$version" --revision "$commit${dirty:+-dirty}" --level "${SALEBELL_PACKAGE_QUICK:+1}" \
    --output "$work/image.tar" >&2
  mv "$work/image.tar" "$results/salebell_${version}_$architecture.oci.tar"
  say "made the image"
  echo "$results/salebell_${version}_$architecture.oci.tar"
}

[ "$kind" = image ] || make_deb
[ "$kind" = deb ] || make_image
