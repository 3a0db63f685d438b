#!/usr/bin/env bash
# In the image, only on AWS: the agents of Systems Manager (the audited shell) and CloudWatch (logs and metrics), in the
# pinned version and with the signature of the pinned key.
set -euo pipefail
stage=/tmp/salebell-bake
if [ "$EMULATED" = true ]; then
  echo "not on AWS: no agents"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
apt-get -qq install -y --no-install-recommends gpg gpg-agent >/dev/null
arch=$(dpkg --print-architecture)

# install_agent NAME URL VERSION FINGERPRINT
install_agent() {
  local name=$1 url=$2 version=$3 fingerprint=$4 key=$stage/keys/$1.asc home=$folder/$1.keys
  url=${url//%VERSION%/$version}
  url=${url//%ARCH%/$arch}
  if ! [ -s "$key" ] || [ -z "$fingerprint" ]; then
    echo "$name: packer/keys/$name.asc or its fingerprint is missing, see packer/versions.pkrvars.hcl" >&2
    exit 1
  fi
  for suffix in "" .sig; do
    curl -fsSL --proto '=https' --tlsv1.2 --retry 5 --connect-timeout 10 --max-time 300 \
      -o "$folder/$name.deb$suffix" "$url$suffix"
  done
  install -d -m 0700 "$home"
  gpg --homedir "$home" --batch --quiet --import "$key"
  # VALIDSIG ends with the primary key's fingerprint. An expired or revoked key gives none.
  if ! gpg --homedir "$home" --batch --status-fd 1 --verify "$folder/$name.deb.sig" "$folder/$name.deb" 2>/dev/null |
    awk -v key="$fingerprint" '$2 == "VALIDSIG" && $NF == key { good = 1 } $2 ~ /^(EXPKEYSIG|REVKEYSIG|BADSIG)$/ { bad = 1 }
      END { exit !(good && !bad) }'; then
    echo "$name $version is not signed by $fingerprint" >&2
    exit 1
  fi
  case $(dpkg-deb -f "$folder/$name.deb" Version) in
    "$version"*) ;;
    *)
      echo "$name is not the $version that was asked for" >&2
      exit 1
      ;;
  esac
  apt-get -qq install -y --no-install-recommends "$folder/$name.deb" >/dev/null
  echo "$name $version, signed by $fingerprint"
}

install_agent amazon-ssm-agent "$SSM_AGENT_URL" "$SSM_AGENT_VERSION" "$SSM_AGENT_KEY_FINGERPRINT"
install_agent amazon-cloudwatch-agent "$CLOUDWATCH_AGENT_URL" "$CLOUDWATCH_AGENT_VERSION" "$CLOUDWATCH_AGENT_KEY_FINGERPRINT"
# Their packages start them. No image may contain what they learn about themselves here: clean-image.sh removes it.
systemctl stop amazon-ssm-agent.service amazon-cloudwatch-agent.service 2>/dev/null || true
apt-get -qq autoremove --purge -y gpg gpg-agent >/dev/null
