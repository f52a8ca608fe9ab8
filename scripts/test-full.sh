#!/usr/bin/env bash
# The long runs: crash states, fuzzing, a guest, QEMU's lists without a time limit. Once per release.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Another seed each time, for all that tests draw at random; that of a run that failed makes it fail again.
export VDISK_SEED=${VDISK_SEED:-$((RANDOM * 32768 + RANDOM))}

need_node
section 'Tools'
install_peers
install_packages || { fail 'npm ci'; finish; }
unpack_oracle

step 'Build' build_if_needed
install_guest_tools
vitest_run 'A guest' --config vitest.full.config.ts
VDISK_CASES=all VDISK_CRASH_STATES=500000 VDISK_FUZZ_CASES=100000 VDISK_KILLS=20 vitest_run 'All tests with other numbers, crash states, fuzzing'
for format in "${formats[@]}"; do iotests "$format" 7200; done
finish
