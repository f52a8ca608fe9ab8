#!/usr/bin/env bash
# Builds a small bootable guest from Debian's packages: DIR/vmlinuz, DIR/initrd, DIR/root.ext4 (a file system made by mkfs).
# The guest checks what the last boot wrote, writes new data with its hashes, and powers off.
# usage: make-guest.sh DIR        needs: apt-get, dpkg, mkfs.ext4, cpio, gzip
set -euo pipefail
dir=$1
mkdir -p "$dir/debs" "$dir/x" && cd "$dir"
image=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
(cd debs && apt-get download -qq "$image" busybox-static 2>/dev/null)
for deb in debs/*.deb; do dpkg -x "$deb" x; done
cp x/boot/vmlinuz-* vmlinuz
rm -rf initrd.d root.d
mkdir -p initrd.d/{bin,proc,sys,dev,root,mod} root.d/{bin,proc,sys,dev,data}
busybox=$(find x -path "*/bin/busybox" -type f | head -n 1)
cp "$busybox" initrd.d/bin/busybox
cp "$busybox" root.d/bin/busybox
modules="virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk"
for module in $modules; do
  file=$(find x/lib/modules -name "$module.ko" | head -n 1)
  [ -z "$file" ] || cp "$file" initrd.d/mod/
done
cat >initrd.d/init <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for pass in 1 2 3; do for m in MODULES; do [ -e /mod/$m.ko ] && /bin/busybox insmod /mod/$m.ko 2>/dev/null; done; done
i=0; while [ ! -e /dev/vda ] && [ $i -lt 100 ]; do /bin/busybox sleep 0.1; i=$((i+1)); done
/bin/busybox mount -t ext4 /dev/vda /root || echo GUEST-FAILED mount
exec /bin/busybox switch_root /root /sbin-init
INIT
sed -i "s/MODULES/$modules/" initrd.d/init
cat >root.d/sbin-init <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
if [ -e /data/sums ]; then
  (cd /data && $b sha256sum -c sums >/dev/null) && echo GUEST-VERIFIED || echo GUEST-FAILED verify
fi
i=0
while [ $i -lt 40 ]; do
  $b dd if=/dev/urandom of=/data/file$i bs=64k count=$((i % 7 * 5 + 1)) 2>/dev/null || echo GUEST-FAILED write
  i=$((i+1))
done
$b rm -f /data/file3 /data/file17
(cd /data && $b sha256sum file* >sums)
$b sync
echo GUEST-WROTE $($b wc -l </data/sums)
$b mount -o remount,ro /
$b poweroff -f
INIT
chmod +x initrd.d/init root.d/sbin-init
(cd initrd.d && find . | cpio -o -H newc --quiet | gzip -1) >initrd
rm -f root.ext4
truncate -s 256M root.ext4
mkfs.ext4 -q -d root.d root.ext4
