#!/usr/bin/env bash
# In the image: copies the binary, the units and the settings from the stage to their places.
set -euo pipefail
stage=/tmp/salebell-bake
cd "$stage" # exists only on a machine on which an image is baked

install -o root -g root -m 0755 "$stage/salebell" /usr/bin/salebell
/usr/bin/salebell --version

# copy FOLDER PLACE [MODE]: copies the files of systemd/FOLDER. A missing or empty folder ends the bake: an image
# without it would boot but not work.
copy() {
  local from=$stage/systemd/$1 files
  mapfile -t files < <(find "$from" -type f -printf '%P\n' 2>/dev/null | LC_ALL=C sort)
  if [ "${#files[@]}" -eq 0 ]; then
    echo "systemd/$1 has no files" >&2
    exit 1
  fi
  for file in "${files[@]}"; do
    install -D -o root -g root -m "${3:-0644}" "$from/$file" "$2/$file"
  done
  echo "$2: ${#files[@]} files"
}

# Settings of cloud-init that belong to the base and to no package: its user, its network.
comm -23 <(find /etc/cloud/cloud.cfg.d -type f | LC_ALL=C sort) <(cat /var/lib/dpkg/info/cloud-init.* | LC_ALL=C sort) |
  xargs -r -d '\n' rm -v

copy system /usr/lib/systemd/system
for folder in system-preset journald.conf.d system.conf.d timesyncd.conf.d; do
  copy "$folder" "/usr/lib/systemd/$folder"
done
copy sysusers.d /usr/lib/sysusers.d
copy tmpfiles.d /usr/lib/tmpfiles.d
copy cloud /etc/cloud/cloud.cfg.d
copy salebell /usr/lib/salebell
copy checks /usr/lib/salebell 0755

# Only Amazon's authorities, for EFS: an authority for the rest of the web must not vouch for it.
mozilla=/usr/share/ca-certificates/mozilla
install -d /etc/salebell
cat "$mozilla"/Amazon_Root_CA_{1,2,3,4}.crt "$mozilla/Starfield_Services_Root_Certificate_Authority_-_G2.crt" |
  install -o root -g root -m 0644 /dev/stdin /etc/salebell/efs.pem

# Static users get their numbers now, so the numbers are the same on every instance.
systemd-sysusers

# Configuration of the image as a machine, independent of what runs on it.
cd "$stage/files"
find . -type f -printf '%P\n' | while read -r file; do
  install -D -o root -g root -m 0644 "$file" "/$file"
done
