/** The sample's commands, each by the calls a VDDK program would make. */
import { resolve } from 'node:path';
import {
  VixDiskLib_CheckRepair, VixDiskLib_Clone, VixDiskLib_Close, VixDiskLib_Connect, VixDiskLib_Create, VixDiskLib_CreateChild, VixDiskLib_Disconnect, VixDiskLib_Flush,
  VixDiskLib_GetInfo, VixDiskLib_GetMetadataKeys, VixDiskLib_Open, VixDiskLib_QueryAllocatedBlocks, VixDiskLib_Read, VixDiskLib_ReadMetadata, VixDiskLib_Write,
  VixDiskLib_WriteMetadata,
} from '../../vixdisklib/c-api.js';
import type { Connection } from '../../vixdisklib/connection.js';
import { AdapterType, DiskType, HWVersion, MAX_CHUNK_NUMBER, OpenFlags, SECTOR_SIZE } from '../../vixdisklib/constants.js';
import type { Disk } from '../../vixdisklib/disk.js';
import type { Geometry } from '../../vixdisklib/info.js';
import { CliError, out } from '../output.js';
import { percentLine } from '../vix.js';
import { benchAsynchronous, benchSynchronous, type Figures } from './bench.js';
import { wholeNumber, type Command, type SampleOptions } from './options.js';

interface Running {
  readonly connection: Connection;
  /** As the connection wants it: absolute for files of this host. */
  readonly path: string;
  readonly options: SampleOptions;
  readonly signal: AbortSignal;
}

const adapterNames: ReadonlyMap<number, string> = new Map([[AdapterType.IDE, 'IDE'], [AdapterType.SCSI_BUSLOGIC, 'BusLogic SCSI'], [AdapterType.SCSI_LSILOGIC, 'LsiLogic SCSI']]);
const largestPiece = 1 << 17;

export const commands: Readonly<Record<Command, (running: Running) => Promise<void>>> = {
  create, redo, info, dump, fill, clone, check, multithread,
  wmeta: (running) => withDisk(running, (disk) => VixDiskLib_WriteMetadata(disk, running.options.words[0]!, running.options.words[1]!)),
  rmeta: (running) => withDisk(running, async (disk) => {
    const [key = ''] = running.options.words;
    out(`${key} = ${await VixDiskLib_ReadMetadata(disk, key)}\n`);
  }),
  meta: (running) => withDisk(running, async (disk) => {
    for (const key of await VixDiskLib_GetMetadataKeys(disk)) out(`${key} = ${await VixDiskLib_ReadMetadata(disk, key)}\n`);
  }),
  getallocatedblocks: (running) => withDisk(running, (disk) => printAllocated(disk, running.options)),
  readbench: (running) => bench(running, 'Read', benchSynchronous),
  writebench: (running) => bench(running, 'Wrote', benchSynchronous),
  readasyncbench: (running) => bench(running, 'Read', benchAsynchronous),
  writeasyncbench: (running) => bench(running, 'Wrote', benchAsynchronous),
};

async function withDisk(running: Running, work: (disk: Disk) => Promise<void>): Promise<void> {
  const disk = await VixDiskLib_Open(running.connection, running.path, running.options.flags);
  try {
    await work(disk);
  } finally {
    if (disk.isOpen) await VixDiskLib_Close(disk);
  }
}

async function create({ connection, path, options: { adapterType, capacity }, signal }: Running): Promise<void> {
  const params = { diskType: DiskType.MONOLITHIC_SPARSE, adapterType, hwVersion: HWVersion.WORKSTATION_5, capacity };
  await VixDiskLib_Create(connection, path, params, () => !signal.aborted);
}

async function redo({ connection, path, options, signal }: Running): Promise<void> {
  const parent = await VixDiskLib_Open(connection, resolve(options.words[0]!), OpenFlags.READ_ONLY);
  try {
    await VixDiskLib_CreateChild(parent, path, DiskType.MONOLITHIC_SPARSE, () => !signal.aborted);
  } finally {
    await VixDiskLib_Close(parent);
  }
}

function info(running: Running): Promise<void> {
  return withDisk(running, async (disk) => {
    const { capacity, numLinks, adapterType, biosGeo, physGeo, parentFileNameHint, uuid, logicalSectorSize, physicalSectorSize } = await VixDiskLib_GetInfo(disk);
    const lines: readonly (readonly [string, string])[] = [
      ['capacity', `${capacity} sectors`], ['number of links', String(numLinks)], ['adapter type', adapterNames.get(adapterType) ?? 'unknown'],
      ['BIOS geometry', geometryText(biosGeo)], ['physical geometry', geometryText(physGeo)],
      ...(parentFileNameHint === null ? [] : [['parent', parentFileNameHint] as const]), ...(uuid === '' ? [] : [['uuid', uuid] as const]),
      ['logical sector size', `${logicalSectorSize} bytes`], ['physical sector size', `${physicalSectorSize} bytes`], ['transport mode', disk.transportMode],
    ];
    for (const [name, value] of lines) out(`${name.padEnd(20)} = ${value}\n`);
  });
}

function geometryText({ cylinders, heads, sectors }: Geometry): string { return `${cylinders}/${heads}/${sectors}`; }

function dump(running: Running): Promise<void> {
  const { start, count = 1 } = running.options;
  return withDisk(running, async (disk) => {
    const sector = new Uint8Array(SECTOR_SIZE);
    for (let at = start; at < start + count; at++) {
      await VixDiskLib_Read(disk, at, 1, sector);
      out(hexText(sector, at * SECTOR_SIZE));
    }
  });
}

function hexText(bytes: Uint8Array, offset: number): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const letters = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.')).join('');
    text += `${(offset + at).toString(16).padStart(8, '0')}: ${row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ')}  ${letters}\n`;
  }
  return text;
}

function fill(running: Running): Promise<void> {
  const { start, count = 1, value } = running.options;
  return withDisk(running, async (disk) => {
    const piece = new Uint8Array(Math.min(count, 2048) * SECTOR_SIZE).fill(value);
    for (let at = start; at < start + count && !running.signal.aborted; at += 2048) await VixDiskLib_Write(disk, at, Math.min(2048, start + count - at), piece);
    await VixDiskLib_Flush(disk);
  });
}

async function clone({ connection, path, options, signal }: Running): Promise<void> {
  const host = await VixDiskLib_Connect(null);
  const line = percentLine('Clone');
  try {
    const params = { diskType: DiskType.MONOLITHIC_SPARSE, hwVersion: HWVersion.WORKSTATION_5 };
    await VixDiskLib_Clone(connection, path, host, resolve(options.words[0]!), params, (_, percent) => {
      line.show({ percent });
      return !signal.aborted;
    }, null, true);
  } finally {
    line.end();
    await VixDiskLib_Disconnect(host);
  }
}

async function check({ connection, path, options }: Running): Promise<void> {
  const repair = wholeNumber('-check', options.words[0]!.replace(/^true$/i, '1').replace(/^false$/i, '0'), 0, 1) === 1;
  const { corruptions, leaks, repaired } = await VixDiskLib_CheckRepair(connection, path, repair);
  out(`${corruptions} faults, ${leaks} leaks${repair ? `, ${repaired} repaired` : ''}\n`);
  if (corruptions > 0) throw new CliError(`The disk is damaged${repair ? '' : '; -check 1 repairs it'}`);
}

async function printAllocated(disk: Disk, { start, count, chunkSize }: SampleOptions): Promise<void> {
  const end = count === undefined ? disk.capacity : start + count;
  const most = MAX_CHUNK_NUMBER * chunkSize;
  let blocks = 0;
  let sectors = 0;
  for (let at = start; at < end; at += most) {
    for (const { offset, length } of await VixDiskLib_QueryAllocatedBlocks(disk, at, Math.min(most, end - at), chunkSize)) {
      out(`Block ${blocks}: offset ${offset}, length ${length}\n`);
      blocks++;
      sectors += length;
    }
  }
  out(`${blocks} blocks, ${sectors} of ${end - start} sectors\n`);
}

function bench(running: Running, verb: string, run: (disk: Disk, piece: number, value: number | undefined) => Promise<Figures>): Promise<void> {
  const { command, words, value, readOnly } = running.options;
  const piece = wholeNumber(`-${command}`, words[0]!, 1, largestPiece);
  return withDisk(running, async (disk) => {
    const { sectors, seconds } = await run(disk, piece, readOnly ? undefined : value);
    const megabytes = sectors * SECTOR_SIZE / 1e6;
    out(`${verb} ${megabytes.toFixed(1)} MB in ${seconds.toFixed(2)} s, in pieces of ${piece} sectors: ${(megabytes / seconds).toFixed(1)} MB/s\n`);
  });
}

async function multithread({ connection, path, options, signal }: Running): Promise<void> {
  const copies = wholeNumber('-multithread', options.words[0]!, 1, 64);
  const host = await VixDiskLib_Connect(null);
  try {
    const stem = resolve(options.disk.replace(/\.vmdk$/i, ''));
    await Promise.all(Array.from({ length: copies }, (_, index) => {
      const params = { diskType: DiskType.MONOLITHIC_SPARSE };
      return VixDiskLib_Clone(host, `${stem}-thread${index + 1}.vmdk`, connection, path, params, () => !signal.aborted, null, true);
    }));
  } finally {
    await VixDiskLib_Disconnect(host);
  }
  out(`${copies} copies made\n`);
}
