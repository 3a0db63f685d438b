#!/usr/bin/env bash
# `make rehearse-vm`: boots one instance of the image as a full virtual machine, in the surroundings of a rehearsal
# (docs/decisions/0023-rehearsal.md).
#   SALEBELL_REHEARSE_IMAGES  a folder of `make bake-local`; without it, that of `make bake-local` now
#   SALEBELL_VM_ACCELERATOR   kvm, where there is one; without it the processor is emulated
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(uname -m)" != x86_64 ]; then
  echo "The virtual machine is one for x86-64, and so has to be this one, for its image to be baked." >&2
  exit 1
fi
# shellcheck source=scripts/lib/require-rust.sh
. scripts/lib/require-rust.sh
# shellcheck source=scripts/lib/system-programs.sh
. scripts/lib/system-programs.sh
scripts/install-packages.sh vm
if [ -z "${SALEBELL_REHEARSE_IMAGES:-}" ]; then
  SALEBELL_REHEARSE_IMAGES=$(scripts/bake-image.sh local)
  export SALEBELL_REHEARSE_IMAGES
fi
exec scripts/rehearse.sh vm
