#!/usr/bin/env bash
# Installs and builds where needed, then runs the main job: ./disks over NBD on 127.0.0.1:10809.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_node
install_packages
build_if_needed
exec node bin/vdisk serve "$@"
