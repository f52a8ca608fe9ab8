/** What vmware-vdiskmanager does, by VixDiskLib's calls. */
import { resolve } from 'node:path';
import { OpenFlags } from '../../vixdisklib/constants.js';
import type { Connection } from '../../vixdisklib/connection.js';
import type { DiskLib } from '../../vixdisklib/library.js';
import { isVixError } from '../../vixdisklib/errors.js';
import type { LongOperation, Progress } from '../../vixdisklib/progress.js';
import type { Request } from './options.js';
import { zeroFreeSpace } from './prepare.js';

type DiskRequest = Exclude<Request, { operation: 'help' }>;

/** How an operation ended: a sentence, and the same for programs. */
export interface Outcome { readonly text: string; readonly exitCode?: number; readonly details?: Record<string, unknown> }

/** Title of the percentage line, and what is said to have failed. */
export const titles: Readonly<Record<DiskRequest['operation'], readonly [progress: string, failing: string]>> = {
  create: ['Create', 'create'], convert: ['Convert', 'convert'], expand: ['Grow', 'expand'], rename: ['Rename', 'rename'], defragment: ['Defragment', 'defragment'],
  shrink: ['Shrink', 'shrink'], prepare: ['Prepare', 'prepare'], chain: ['Check', 'check the chain of'], repair: ['Check', 'check'],
  deletable: ['Change', 'make deletable'], delete: ['Delete', 'delete'],
};

interface Control { readonly signal: AbortSignal; readonly onProgress: (progress: Progress) => void }

/** @throws VixError, CliError */
export async function perform(library: DiskLib, request: DiskRequest, control: Control): Promise<Outcome> {
  if (request.operation === 'prepare') {
    await zeroFreeSpace(request.disk, { signal: control.signal, onProgress: ({ percent }) => control.onProgress({ percent, done: percent, total: 100 }) });
    return { text: 'The free space is zeroed. Unmount the disk, then shrink it with -k.' };
  }
  await using host = await library.connect();
  const disk = resolve(request.disk);
  switch (request.operation) {
    case 'create': {
      const { diskType, adapterType, capacity } = request;
      await host.create(disk, { diskType, adapterType, capacity }, control);
      return { text: 'Virtual disk creation successful.', details: { sectors: capacity } };
    }
    case 'convert': return await convert(library, host, request, control);
    case 'expand':
      await host.grow(disk, request.capacity, true, control);
      return {
        text: 'Disk expansion completed successfully.\n\nThe partitions on the disk and their file systems are as large as before: the guest, or a tool there, makes them larger.',
        details: { sectors: request.capacity },
      };
    case 'rename':
      await host.rename(resolve(request.source), disk);
      return { text: 'Renaming completed successfully.' };
    case 'defragment': case 'shrink': {
      await using opened = await host.open(disk, { signal: control.signal });
      await (request.operation === 'shrink' ? opened.shrink(control) : opened.defragment(control));
      return { text: request.operation === 'shrink' ? 'Shrink completed successfully.' : 'Defragmentation completed successfully.' };
    }
    case 'chain': return await checkChain(host, disk, control.signal);
    case 'repair': return await repair(host, disk, control);
    case 'deletable': {
      await using opened = await host.open(disk, { flags: OpenFlags.SINGLE_LINK });
      await opened.metadata.set('deletable', 'true');
      return { text: 'The disk is deletable now.' };
    }
    case 'delete': {
      const { orphans } = await host.unlink(disk);
      return { text: 'The disk and its files are deleted.', details: { orphans } };
    }
  }
}

async function convert(library: DiskLib, host: Connection, request: DiskRequest & { operation: 'convert' }, control: LongOperation): Promise<Outcome> {
  const source = resolve(request.source);
  const createParams = { ...(request.diskType !== undefined && { diskType: request.diskType }) };
  if (request.host === undefined) {
    await host.clone(resolve(request.disk), host, source, { createParams, ...control });
  } else {
    await using server = await library.connect({ serverName: request.host, port: request.port });
    await server.clone(request.disk, host, source, { createParams, ...control });
  }
  return { text: 'Virtual disk conversion successful.' };
}

const inconsistent = [
  'VIX_E_DISK_CID_MISMATCH', 'VIX_E_DISK_OPENPARENT', 'VIX_E_DISK_PARTIALCHAIN', 'VIX_E_DISK_INVALIDCHAIN', 'VIX_E_DISK_CAPACITY_MISMATCH', 'VIX_E_DISK_PARENT_NOTALLOWED',
] as const;

async function checkChain(host: Connection, disk: string, signal: AbortSignal): Promise<Outcome> {
  try {
    await using opened = await host.open(disk, { flags: OpenFlags.READ_ONLY, signal });
    const { numLinks } = await opened.info();
    return { text: `Disk chain is consistent (${numLinks === 1 ? 'one disk' : `${numLinks} disks`}).`, details: { consistent: true, links: numLinks } };
  } catch (error) {
    const symbol = inconsistent.find((each) => isVixError(error, each));
    if (symbol === undefined) throw error;
    const { message } = error as Error;
    return { text: `Disk chain is not consistent: ${message}`, exitCode: 1, details: { consistent: false, error: symbol, message } };
  }
}

async function repair(host: Connection, disk: string, control: LongOperation): Promise<Outcome> {
  const { corruptions, leaks, repaired, findings } = await host.checkRepair(disk, true, control);
  const text = repaired > 0 ? `The virtual disk, '${disk}', was damaged and has been repaired.`
    : corruptions + leaks > 0 ? `The virtual disk, '${disk}', is damaged.` : `No errors were found on the virtual disk, '${disk}'.`;
  return { text, exitCode: corruptions > 0 ? 1 : 0, details: { corruptions, leaks, repaired, findings } };
}
