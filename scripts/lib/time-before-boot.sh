#!/usr/bin/env bash
# Prints when the commit was made, in seconds since 1970, or a day before this machine was booted, whichever is earlier. To
# a newcomer every commit is older than the boot; to those who work on it none is, and to a build server hardly any.
set -euo pipefail
cd "$(dirname "$0")/../.."
committed_at=$(git log -1 --format=%ct)
before_boot=$(($(awk '$1 == "btime" { print $2 }' /proc/stat) - 24 * 3600))
echo $((committed_at < before_boot ? committed_at : before_boot))
