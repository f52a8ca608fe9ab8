#!/usr/bin/env bash
# Everything a change must not break, on a fresh machine too. The last line is the sum; the exit status follows it.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

limit=1480 # seconds, all in all
need_node
section 'Tools'
install_peers
install_packages || { fail 'npm ci'; finish; }
unpack_oracle

step 'Build' npm run --silent build
step 'Dependency rule' node scripts/check-imports.mjs
step 'Types of tests' npx tsc -p tsconfig.check.json
step 'Lint' npx eslint .
vitest_run 'Unit, property and interop tests'
for format in "${formats[@]}"; do iotests "$format" $((limit - SECONDS)); done
finish
