#!/usr/bin/env bash
# In the image: lists the content after clean-image.sh, for the manifest. validate-image.sh compares the two.
set -euo pipefail
stage=/tmp/salebell-bake
contents=$stage/contents
export LC_ALL=C
mkdir -p "$contents"

# Name, version and architecture of every package except those that serve only the bake.
removed=$("$stage/scripts/clean-image.sh" --list-removed)
dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n' |
  awk -F '\t' -v OFS='\t' -v removed="$removed" '
    BEGIN { count = split(removed, names, /[ \n]+/); for (i = 1; i <= count; i++) gone[names[i]] = 1 }
    $1 ~ /^ii/ && !($2 in gone) { print $2, $3, $4 }' | sort >"$contents/packages.tsv"

# Checksums of Salebell's files: files in the places of install-salebell.sh that no package owns.
cd /
{
  echo /usr/bin/salebell
  find "$stage/files" -type f -printf '/%P\n'
  comm -23 \
    <(find /usr/lib/{salebell,systemd,sysusers.d,tmpfiles.d} /etc/cloud/cloud.cfg.d -type f 2>/dev/null | sort) \
    <(cat /var/lib/dpkg/info/*.list | sort)
} | sort -u | xargs -d '\n' sha256sum >"$contents/files.sha256"

cp /etc/debian_version "$contents/"
find /usr/lib/modules -mindepth 1 -maxdepth 1 -printf '%f\n' | sort >"$contents/kernels"
chown -R admin "$contents"
# A single file, because Packer 1.6.6 cannot download folders.
tar --create --file "$stage/contents.tar" --directory "$contents" .
chmod a+r "$stage/contents.tar"
echo "$(wc -l <"$contents/packages.tsv") packages, $(wc -l <"$contents/files.sha256") files of ours"
