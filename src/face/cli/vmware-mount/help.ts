/** Help of vmware-mount. */

export const help = `vmware-mount: the partitions of a virtual disk, and the disk itself as a file

  vmware-mount -p DISK                          list its partitions
  vmware-mount -f DISK DIRECTORY                the whole disk, raw, as DIRECTORY/flat
  vmware-mount DISK [PARTITION] DIRECTORY       mount a partition (default: the first; needs root)
  vmware-mount -d DIRECTORY                     unmount; the disk is closed with its last use
  vmware-mount -l DISK                          what is mounted of a disk
  vmware-mount -L                               disks in use
  vmware-mount -k DISK      (-K: by force)      unmount everything of a disk and close it
  vmware-mount -x           (-X: by force)      the same for all disks

  -r           read-only
  -o OPTIONS   options for mount(8), or for the file with -f (allow_other, …)
  --json       with -p, -l and -L: the answer as JSON
  -h, --help   this text

DISK is any image vdisk can open: VMDK with its redo logs and extents, qcow2, VHDX, raw, …
A disk in use is held open, and locked, by a server in the background. DIRECTORY/flat is made with nbdfuse (Debian: libnbd-bin) and needs
/dev/fuse; where that is missing, -f prints the address of the disk (NBD) and commands that use it instead.

An example, as root:
  vmware-mount -p win.vmdk
  vmware-mount -r win.vmdk 2 /mnt
  ls /mnt
  vmware-mount -d /mnt

Without root, look inside with
  vmware-mount -r -f win.vmdk /tmp/win          and then 7z l /tmp/win/flat, mdir -i /tmp/win/flat@@1M, debugfs, …
  vmware-mount -d /tmp/win

Exit code: 0 done, 1 it failed, 2 the command line was not understood.
`;
