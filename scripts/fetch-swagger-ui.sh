#!/usr/bin/env bash
# fetch-swagger-ui.sh [VERSION]: fetches swagger-ui-dist with npm and writes the files of src/http/docs/swagger/ that come
# from it. SHA256SUMS there has the version and the hashes: the files are written only if they match. With a VERSION that
# is not the one of SHA256SUMS, it is written anew, to be read before it is committed. No script of the package runs.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=src/http/docs/swagger
sums=$PWD/$folder/SHA256SUMS
files=(LICENSE NOTICE swagger-ui-bundle.js swagger-ui-bundle.js.LICENSE.txt swagger-ui.css)
# Those that are stored compressed, as most browsers receive them.
compressed=(swagger-ui-bundle.js swagger-ui.css)

known=$(sed -n 's/^# swagger-ui-dist //p' "$sums" 2>/dev/null || true)
version=${1:-$known}
if ! [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; then
  echo "usage: $0 VERSION, as in 5.35.0" >&2
  exit 2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
npm pack "swagger-ui-dist@$version" --ignore-scripts --silent --pack-destination "$scratch" >/dev/null
tar --extract --gzip --file "$scratch/swagger-ui-dist-$version.tgz" --directory "$scratch" --no-same-owner
package=$scratch/package
if [ "$version" = "$known" ]; then
  (cd "$package" && sha256sum --check --strict --quiet "$sums")
else
  {
    echo "# swagger-ui-dist $version"
    (cd "$package" && sha256sum "${files[@]}")
  } >"$scratch/SHA256SUMS"
  install -m 0644 "$scratch/SHA256SUMS" "$sums"
  echo "==> $folder/SHA256SUMS is new: read it before you commit it"
fi
for file in "${files[@]}"; do
  if [[ " ${compressed[*]} " == *" $file "* ]]; then
    gzip -9 --no-name --stdout "$package/$file" >"$scratch/$file.gz"
    install -m 0644 "$scratch/$file.gz" "$folder/$file.gz"
  else
    install -m 0644 "$package/$file" "$folder/$file"
  fi
done
echo "==> $folder has swagger-ui-dist $version"
