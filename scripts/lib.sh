# Shared by the other scripts: sums, installing what is missing, building when needed. Sourced from the project's root.
passed=0
failed=0

section() { printf '\n=== %s (%d s)\n' "$1" "$SECONDS"; }
notice() { printf '\n!!! %s\n' "$1" >&2; }
pass() { passed=$((passed + 1)); printf 'ok      %s\n' "$1"; }
fail() { failed=$((failed + 1)); printf 'FAILED  %s\n' "$1"; }

# step NAME COMMAND…: one pass or failure.
step() {
  local name=$1
  shift
  section "$name"
  if "$@"; then pass "$name"; else fail "$name"; fi
}

# The last line of every test run; the exit status says the same.
finish() {
  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ]
  exit
}

need_node() {
  node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' && return
  echo "Node.js 20.19 or later is needed." >&2
  exit 1
}

install_packages() {
  if [ ! -d node_modules ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then npm ci; fi
}

# Compiles where a source is newer than the last build.
build_if_needed() {
  if [ ! -f dist/cli/main.cjs ] || [ ! -f dist/index.js ] ||
    [ -n "$(find src scripts/bundle.mjs package.json tsconfig.json -newer dist/cli/main.cjs -type f -print -quit)" ]; then
    npm run --silent build
  fi
}

# Debian's 7zip brings 7zz, later also 7z.
have() {
  local PATH=$PATH:/usr/sbin:/sbin
  if [ "$1" = 7zip ]; then command -v 7zz || command -v 7z; else command -v "$1"; fi >/dev/null
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }

apt_get_install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$@" >/dev/null; }

# Installs Debian packages, one by one where apt-get does not know all of them; waits for another installation that is under way.
apt_install() {
  local package
  echo "Installing $*"
  as_root apt-get update -qq
  apt_get_install "$@" && return
  for package; do apt_get_install "$package" || notice "apt-get could not install $package"; done
}

# Installs the Debian packages of the foreign tools that judge us, where a tool is missing and we may.
install_peers() {
  local missing=() pair
  for pair in nbdkit:nbdkit nbdinfo:libnbd-bin nbdsh:python3-libnbd fio:fio qemu-img:qemu-utils qemu-nbd:qemu-utils \
    qcowmount:libqcow-utils vhdimount:libvhdi-utils vmdkmount:libvmdk-utils fusermount:fuse cryptsetup:cryptsetup-bin bximage:bximage \
    create_compressed_fs:cloop-utils mcopy:mtools fsck.fat:dosfstools bzip2:bzip2 7zip:7zip certtool:gnutls-bin mkfs.ext4:e2fsprogs curl:curl xz:xz-utils python3:python3 openssl:openssl sfdisk:fdisk sgdisk:gdisk parted:parted nbdfuse:libnbd-bin vmdkinfo:libvmdk-utils xmount:xmount dmg2img:dmg2img; do
    have "${pair%%:*}" || missing+=("${pair#*:}")
  done
  [ -e /usr/lib/python3/dist-packages/VMDKstream.py ] || missing+=(python3-vmdkstream)
  [ ${#missing[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null || ! as_root true 2>/dev/null; then
    notice "Not installed, and apt-get is not ours to use: ${missing[*]}. Tests against these tools will not run."
    return
  fi
  apt_install "${missing[@]}"
}

# What the test with a real guest needs besides.
install_guest_tools() {
  command -v qemu-system-x86_64 >/dev/null && command -v cpio >/dev/null && return
  apt_install qemu-system-x86 cpio
}

# vitest_run NAME [ARGUMENT…]: adds the tests' own sums. A file that fails to load or an error outside tests counts as one failure.
vitest_run() {
  local name=$1 report status sums
  shift
  section "$name, VDISK_SEED=${VDISK_SEED:-1}"
  report=$(mktemp)
  npx vitest run --reporter=default --reporter=json --outputFile.json="$report" "$@"
  status=$?
  sums=$(node -e '
    const report = JSON.parse(require("node:fs").readFileSync(process.argv[1], "utf8"));
    const unloadable = report.testResults.filter((file) => file.status === "failed" && file.assertionResults.length === 0).length;
    console.log(report.numPassedTests, report.numFailedTests + unloadable);' "$report" 2>/dev/null) || sums='0 0'
  rm -f "$report"
  passed=$((passed + ${sums% *}))
  failed=$((failed + ${sums#* }))
  if [ "$status" -ne 0 ] && [ "${sums#* }" -eq 0 ]; then fail "$name (exit status $status)"; fi
}

# The formats QEMU's own tests are run for.
formats=(raw qcow2 qcow qed vdi vpc vhdx vmdk parallels luks bochs cloop dmg vvfat)

# The suite as the first list unpacked it, for the others: unpacking takes longer than some lists.
suite_copy=

# iotests FORMAT SECONDS [FILE]: QEMU's own suite as a black box, where it lies beside the project: the tests that need no more than
# image tools and an NBD server, without those that FILE names for the format.
iotests() {
  local format=$1 limit=$2 left_out=${3-} suite=../shared/iotests need list output status sums
  section "QEMU's iotests: $format"
  if [ ! -x "$suite/run" ]; then
    notice "$suite does not lie beside the project: QEMU's own tests for $format are NOT run."
    return
  fi
  if [ "$limit" -le 0 ]; then
    fail "iotests $format (no time is left)"
    return
  fi
  list=$(mktemp)
  output=$(mktemp)
  for need in img nbd; do
    [ ! -f "$suite/lists/$format.$need.txt" ] || cat "$suite/lists/$format.$need.txt"
  done | sed 's/#.*//; s/[[:space:]]*$//; /^$/d' >"$list"
  if [ -f "$left_out" ]; then
    awk -v format="$format" '!/^#/ { for (i = 2; i <= NF; i++) if ($i == format) print $1 }' "$left_out" | grep -vxFf - "$list" >"$list.kept"
    mv "$list.kept" "$list"
  fi
  QEMU_IMG_PROG=$PWD/bin/qemu-img QEMU_IO_PROG=$PWD/bin/qemu-io QEMU_NBD_PROG=$PWD/bin/qemu-nbd QSD_PROG=stub QEMU_PROG=stub \
    timeout --kill-after=10 "$limit" "$suite/run" $([ -n "$suite_copy" ] && echo "--src $suite_copy/q" || echo --keep) -t 500 -f "$format" -l "$list" 2>&1 | tee "$output"
  status=${PIPESTATUS[0]}
  if [ -z "$suite_copy" ]; then
    suite_copy=$(sed -n 's/^kept //p' "$output" | tail -n 1)
    trap 'rm -rf "$suite_copy"' EXIT
  fi
  sums=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed.*/\1 \2/p' "$output" | tail -n 1)
  rm -f "$list" "$output"
  sums=${sums:-0 0}
  passed=$((passed + ${sums% *}))
  failed=$((failed + ${sums#* }))
  if [ "$status" -ne 0 ] && [ "${sums#* }" -eq 0 ]; then fail "iotests $format (exit status $status)"; fi
}

# QEMU 10 itself, where the suite's folder can fetch it: some tests compare with it.
unpack_oracle() {
  if [ ! -x ../shared/iotests/oracle ]; then
    notice "../shared/iotests does not lie beside the project: comparisons with QEMU 10 are NOT run."
  elif ! ../shared/iotests/oracle true; then
    notice "QEMU 10 could not be fetched: comparisons with it are NOT run."
  fi
}
