#!/usr/bin/env bash
# The long runs: crash states, fuzzing, a guest, QEMU's lists without a time limit. Once per release.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_node
section 'Tools'
install_peers
install_packages || { fail 'npm ci'; finish; }
unpack_oracle

step 'Build' build_if_needed
vitest_run 'Crash states, fuzzing, guest' --config vitest.full.config.ts
iotests raw 7200 img nbd
iotests qcow2 7200 img nbd
finish
