#!/usr/bin/env bash
# Prints the time of the commit in seconds since 1970, or that of a day before this machine was booted, whichever is
# earlier. For a newcomer every commit is older than the boot; for a developer none is, and for a build server hardly
# any.
set -euo pipefail
cd "$(dirname "$0")/../.."
committed_at=$(git log -1 --format=%ct)
before_boot=$(($(awk '$1 == "btime" { print $2 }' /proc/stat) - 24 * 3600))
echo $((committed_at < before_boot ? committed_at : before_boot))
