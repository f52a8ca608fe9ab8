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

# certificates that each Node reads as it starts (decision 6); no test needs them
unset NODE_EXTRA_CA_CERTS

lint_output=$(mktemp)
npx eslint . >"$lint_output" 2>&1 &
lint=$!
linted() {
  wait "$lint"
  local status=$?
  cat "$lint_output"
  rm -f "$lint_output"
  return $status
}
step 'Build' npm run --silent build
step 'Dependency rule' node scripts/check-imports.mjs
step 'Types of tests' npx tsc -p tsconfig.check.json
step 'Lint' linted
vitest_run 'Unit, property and interop tests'
for format in "${formats[@]}"; do iotests "$format" $((limit - SECONDS)) test/iotests-long.txt; done
finish
