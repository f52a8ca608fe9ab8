/** vmware-mount: partitions of a disk in the file system, and the disk itself as a file. */
import { readdirSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { formatNbdUri } from '../../../wire/nbd/address.js';
import type { Partition } from '../../../wire/partition-table.js';
import { inBackground } from '../background.js';
import { canonicalPath, closeGraph } from '../open.js';
import { CliError, out, warn } from '../output.js';
import { addUse, disksInUse, endAll, endUse, findDisk, hold, showIn, showInside } from './disks.js';
import { help } from './help.js';
import { parseOptions, type Request } from './options.js';
import { partitionTable, tableText } from './partitions.js';
import { serveDisk } from './server.js';
import { exclusively, socketOf, type OpenDisk } from './state.js';
import { isMounted, isRoot, mountRange, whyNoFuse } from './system.js';

type MountRequest = Request & { action: 'mount' };

export async function main(argv: string[]): Promise<number> {
  const request = parseOptions(argv);
  if (request.action === 'help') {
    out(help);
    return 0;
  }
  if (request.action === 'mount' && inBackground()) {
    return serveDisk(canonicalPath(request.disk), { readOnly: request.readOnly, addressOnly: whyNoFuse() !== undefined });
  }
  await exclusively(() => run(request));
  await closeGraph();
  return 0;
}

async function run(request: Request & { action: Exclude<Request['action'], 'help'> }): Promise<void> {
  switch (request.action) {
    case 'partitions': return listPartitions(request.disk, request.json);
    case 'list': return listUses(request.disk, request.json);
    case 'list-disks': return listDisks(request.json);
    case 'mount': return request.partition === 'flat' ? mountFlat(request) : mountPartition(request, request.partition);
    case 'unmount': return unmountFolder(request.folder);
    case 'close': return endAll(await inUse(request.disk), request.force);
    case 'close-all': {
      for (const disk of await disksInUse()) await endAll(disk, request.force);
    }
  }
}

async function listPartitions(name: string, json: boolean): Promise<void> {
  const disk = canonicalPath(name);
  const table = await partitionTable(disk, await findDisk(disk));
  if (json) out(`${JSON.stringify(table ?? { partitions: [] }, null, 2)}\n`);
  else if (table === undefined) throw new CliError(`${name} has no partition table`, { hint: 'It may hold one file system without partitions: look with -f' });
  else out(tableText(table));
  if (!json) for (const problem of table?.problems ?? []) warn(problem);
}

async function listUses(name: string, json: boolean): Promise<void> {
  const disk = await inUse(name);
  if (json) out(`${JSON.stringify(describe(disk), null, 2)}\n`);
  else if (disk.addressOnly) out(`${addressOf(disk.disk)}\n`);
  else for (const { partition, folder } of disk.uses) out(partition === 'flat' ? `flat  ${join(folder, 'flat')}\n` : `${String(partition).padStart(4)}  ${folder}\n`);
}

async function listDisks(json: boolean): Promise<void> {
  const disks = await disksInUse();
  if (json) out(`${JSON.stringify(disks.map(describe), null, 2)}\n`);
  else if (disks.length === 0) out('No disks are mounted.\n');
  else out(`Disks with mounted partitions:\n${disks.map(({ disk, readOnly }) => `${disk}${readOnly ? ' (read-only)' : ''}\n`).join('')}`);
}

function describe({ disk, readOnly, addressOnly, uses }: OpenDisk): Record<string, unknown> {
  return { disk, readOnly, address: addressOf(disk), ...(!addressOnly && { mounts: uses }) };
}

async function mountFlat({ disk: name, folder, readOnly, mountOptions }: MountRequest): Promise<void> {
  const disk = canonicalPath(name);
  const why = whyNoFuse();
  if (why !== undefined) {
    await hold(disk, readOnly);
    out(withoutFuse(disk, why));
    return;
  }
  const place = emptyFolder(folder);
  const held = await hold(disk, readOnly);
  if (held.addressOnly) throw new CliError(`${name} is in use at ${addressOf(disk)}`);
  try {
    await showIn(place, disk, readOnly, mountOptions);
    addUse(held, { partition: 'flat', folder: place });
  } finally {
    await disksInUse(); // closes it again where this failed
  }
  out(`${join(place, 'flat')}\n`);
}

async function mountPartition({ disk: name, folder, readOnly, mountOptions }: MountRequest, number: number): Promise<void> {
  const disk = canonicalPath(name);
  if (!isRoot() || whyNoFuse() !== undefined) throw refusal(name, folder, number, await partitionOf(disk, await findDisk(disk), number));
  const place = emptyFolder(folder);
  const held = await hold(disk, readOnly);
  try {
    const flat = await showInside(held);
    const { start, size } = await partitionOf(disk, held, number);
    mountRange(flat, place, { start, size, readOnly, options: mountOptions });
    addUse(held, { partition: number, folder: place });
  } finally {
    await disksInUse();
  }
}

async function unmountFolder(name: string): Promise<void> {
  const folder = canonicalPath(name);
  for (const disk of await disksInUse()) {
    const use = disk.uses.findLast((other) => other.folder === folder);
    if (use !== undefined) return endUse(disk, use);
  }
  throw new CliError(`Nothing of ours is mounted on ${name}`);
}

async function inUse(name: string): Promise<OpenDisk> {
  const disk = await findDisk(canonicalPath(name));
  if (disk === undefined) throw new CliError(`${name} is not mounted`);
  return disk;
}

async function partitionOf(disk: string, held: OpenDisk | undefined, number: number): Promise<Partition> {
  const table = await partitionTable(disk, held);
  const partition = table?.partitions.find((other) => other.number === number);
  if (partition === undefined) {
    throw new CliError(table === undefined ? `${disk} has no partition table` : `${disk} has no partition ${number}`, { hint: 'List its partitions with -p' });
  }
  if (partition.extended) throw new CliError(`Partition ${number} only holds other partitions`, { hint: 'Theirs are the numbers from 5 on' });
  return partition;
}

/** @throws CliError where a directory cannot carry a mount */
function emptyFolder(name: string): string {
  let folder: string;
  try {
    folder = realpathSync(name);
    if (isMounted(folder)) throw new CliError(`Something is mounted on ${name} already`);
    if (readdirSync(folder).length > 0) throw new CliError(`${name} is not empty`);
  } catch (error) {
    if (error instanceof CliError) throw error;
    throw new CliError(`${name} is no directory to mount on`);
  }
  return folder;
}

function addressOf(disk: string): string { return formatNbdUri({ type: 'unix', path: socketOf(disk) }, ''); }

function withoutFuse(disk: string, why: string): string {
  const address = addressOf(disk);
  return `${address}
The disk is served there, since it cannot be a file: ${why}. For example
  nbdinfo '${address}'
  nbdcopy '${address}' disk.raw
  sudo nbd-client -unix ${socketOf(disk)} /dev/nbd0       the kernel's own block device
It is held open until: vmware-mount -k ${disk}
`;
}

function refusal(disk: string, folder: string, number: number, { start, size }: Partition): CliError {
  const why = whyNoFuse();
  const mount = `sudo mount -o loop,offset=${start},sizelimit=${size}`;
  return new CliError(`Partition ${number} cannot be mounted: ${why ?? 'only root may mount file systems'}`, {
    hint: why === undefined ? `As a file it can be reached; it starts at byte ${start}:
  vmware-mount -f -o allow_root ${disk} DIRECTORY
  ${mount} DIRECTORY/flat ${folder}     or mtools, debugfs, 7z on that file` : `Over NBD it can be reached:
  vmware-mount -f ${disk} ${folder}     prints the address
  sudo nbd-client -unix SOCKET /dev/nbd0 && ${mount} /dev/nbd0 ${folder}`,
  });
}
