/** Help of vixdisklib-sample. */

export const help = `vixdisklib-sample: VixDiskLib from a shell, with the commands of VDDK's sample program

  vixdisklib-sample COMMAND [OPTION]... DISK

Commands:
  -create                 make a sparse disk of -cap MB
  -redo PARENT            make DISK as a redo log of PARENT
  -info                   capacity, geometry, links
  -dump                   print -count sectors from sector -start on
  -fill                   write -val into -count sectors from sector -start on
  -wmeta KEY VALUE        write an entry of the metadata
  -rmeta KEY              read one
  -meta                   print all
  -clone SOURCE           copy the local disk SOURCE, with its parents, to DISK (which is replaced)
  -readbench SECTORS      read the disk in pieces of so many sectors, one after the other
  -writebench SECTORS     write it so: THE CONTENT IS LOST
  -readasyncbench SECTORS, -writeasyncbench SECTORS     the same with 32 pieces under way
  -getallocatedblocks     what holds data, in chunks
  -check REPAIR           check the tables of a sparse disk; 1: and repair them
  -multithread N          copy the disk N times at once, to DISK-thread1.vmdk and so on

Options:
  -adapter ide|scsi       for -create (default scsi: buslogic)
  -cap MB                 for -create (default 100)
  -start N  -count N      sectors (default: the first one; for -getallocatedblocks the whole disk)
  -val BYTE               for -fill and -writebench (default 255)
  -chunksize N            for -getallocatedblocks, sectors (default and least: 128)
  -single                 open DISK without its parents
  -compress zlib|fastlz|skipz     of transfers from servers
  -initex FILE            a configuration file      -libdir DIR
  -host NAME              a server of disks, by NBD: a vdisk daemon, or any other; /PATH is a unix socket
  -port N                 its port (default 10809); -nfchostport N wins over it
  -mode nbd|nbdssl|…      transports, in order of preference, joined with ':'
  -thumb FINGERPRINT      of the server's certificate (nbdssl)
  -vm moref=ID            the virtual machine; DISK is looked for as ID/DISK, then as DISK
  -ssmoref ID             its snapshot
  -user NAME  -password TEXT  -cookie TEXT       kept for themselves: NBD has no use for them
  -fcdid ID -fcdds DATASTORE [-fcdssid ID]       a first-class disk

Examples:
  vixdisklib-sample -create -cap 1000 disk.vmdk
  vixdisklib-sample -redo disk.vmdk child.vmdk
  vixdisklib-sample -fill -val 165 -start 2048 -count 16 child.vmdk
  vixdisklib-sample -getallocatedblocks child.vmdk
  vdisk serve ./disks &
  vixdisklib-sample -info -host localhost -mode nbd disk.vmdk

Exit code: 0 done, 1 it failed, 2 the command line was not understood.
`;
