/** Help of vmware-vdiskmanager. */

export const help = `vmware-vdiskmanager: makes and keeps virtual disks in VMware's format

  vmware-vdiskmanager -c -s SIZE [-a ADAPTER] [-t TYPE] DISK     make an empty disk
  vmware-vdiskmanager -r SOURCE -t TYPE DISK                     copy SOURCE (any format, redo logs included) into a new DISK
  vmware-vdiskmanager -x SIZE DISK                               make it larger: SIZE is the new total
  vmware-vdiskmanager -n OLD NEW                                 rename it, with all its files
  vmware-vdiskmanager -d DISK                                    defragment: blocks in the order of the disk
  vmware-vdiskmanager -k DISK                                    shrink: give zeroed blocks back to the host
  vmware-vdiskmanager -p DIRECTORY                               prepare a mounted disk for -k: zero its free space
  vmware-vdiskmanager -e DISK                                    is its chain consistent?
  vmware-vdiskmanager -R DISK                                    check a sparse disk, and repair it
  vmware-vdiskmanager -D DISK                                    make it deletable
  vmware-vdiskmanager -U DISK                                    delete it, with all its files

  -s SIZE      sectors of 512 bytes, or with KB, MB, GB or TB behind: 40GB
               from 1MB to 8192GB (buslogic: 2040GB)
  -a ADAPTER   ide, buslogic or lsilogic (default; also for every newer controller)
  -t TYPE      0  one file that grows (default)           4  flat, for ESX
               1  files of 2 GB that grow                 5  compressed stream, as in OVA files (only with -r)
               2  one flat file, as large as the disk      6  thin, for ESX
               3  flat files of 2 GB
  -h HOST      with -r: DISK is the name of an export of the NBD server HOST, which must be there and large enough
  -P PORT      its port (default 10809)
  -u USER, -f FILE   taken, and not used: NBD knows no users
  -q           print nothing but errors
  --json       print the result as JSON
  --help       this text

Examples:
  vmware-vdiskmanager -c -s 40GB -a lsilogic -t 1 disk.vmdk
  vmware-vdiskmanager -r old.vmdk -t 0 new.vmdk
  vmware-vdiskmanager -r disk.qcow2 -t 5 appliance.vmdk
  vmware-mount disk.vmdk /mnt && vmware-vdiskmanager -p /mnt && vmware-mount -d /mnt && vmware-vdiskmanager -k disk.vmdk

Ctrl-C ends any of these cleanly: a disk is as it was, and one half made is removed.
Exit code: 0 done (-e: consistent), 1 it failed, 2 the command line was not understood.
`;
