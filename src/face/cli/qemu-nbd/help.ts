/** Help and version of qemu-nbd. */
import { programName } from '../output.js';

export function versionText(): string {
  return `${programName()} 10.0.2 (vdisk)\nAn implementation of QEMU's tool of that name; see the README.\n`;
}

export function helpText(): string {
  return `Usage: ${programName()} [OPTIONS] FILE
  or:  ${programName()} -L [OPTIONS]
Serves a disk image over NBD, the network block device protocol.

  -h, --help                display this help and exit
  -V, --version             output version information and exit

Connection properties:
  -p, --port=PORT           port to listen on (default \`10809')
  -b, --bind=IFACE          interface to bind to (default \`0.0.0.0')
  -k, --socket=PATH         listen on this unix socket instead
  -e, --shared=NUM          clients served at a time (default '1'; 0: no limit)
  -t, --persistent          go on when the last client has left
  -v, --verbose             tell about dropped clients
  -x, --export-name=NAME    name of the export (default is empty string)
  -D, --description=TEXT    description of the export
      --handshake-limit=N   seconds a client has to choose an export (default 10)

Exposing part of the image:
  -o, --offset=OFFSET       offset into the image
  -A, --allocation-depth    expose the allocation depth
  -B, --bitmap=NAME         expose a persistent dirty bitmap

General purpose options:
  -L, --list                list exports available from another NBD server
  --object type,id=ID,...   define an object such as 'secret' or 'tls-creds-x509'
  --tls-creds=ID            use id of an earlier --object to provide TLS
  --tls-authz=ID            use id of an earlier --object to decide which certificates may come in
  --tls-hostname=HOSTNAME   override hostname used to check x509 certificate
  -T, --trace ...           accepted and ignored
  --fork                    exit once the server, in the background, is running
  --pid-file=PATH           store the server's process ID in the given file

Block device options:
  -f, --format=FORMAT       set image format (raw, qcow2, ...)
  -r, --read-only           export read-only
  -s, --snapshot            write to a temporary overlay, and forget it at the end
  -l, --load-snapshot=SNAPSHOT_PARAM
                            export an internal snapshot read-only, SNAPSHOT_PARAM is
                            'snapshot.id=[ID],snapshot.name=[NAME]', or '[ID_OR_NAME]'
  -n, --nocache             disable host cache
      --cache=MODE          'none', 'writeback' (default), 'writethrough', 'directsync' or 'unsafe'
      --aio=MODE            accepted: native, io_uring or threads
      --discard=MODE        set discard mode (ignore, unmap)
      --detect-zeroes=MODE  set detect-zeroes mode (off, on, unmap)
      --image-opts          treat FILE as a full set of image options

Kernel devices (-c, -d) and SELinux labels are not supported.
`;
}
