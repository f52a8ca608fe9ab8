/** Disks of kinds that nobody here writes: the redo logs of ESX. */
import { writeFileSync } from 'node:fs';

const sector = 512;

function descriptor(createType: string, extent: string): string {
  return `# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="${createType}"\n`
    + `# Extent description\n${extent}\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = "lsilogic"\n`;
}

/** An empty vmfsSparse disk at `filename`, its COWD extent beside it; `grain` in sectors. Returns the filename. */
export function cowdDisk(filename: string, size: number, grain = 1): string {
  const capacity = size / sector;
  const entries = Math.ceil(capacity / (grain * 4096));
  const directoryLength = Math.ceil(entries * 4 / sector);
  const bytes = Buffer.alloc((4 + directoryLength) * sector);
  bytes.write('COWD');
  [1, 3, capacity, grain, 4, entries, 4 + directoryLength].forEach((value, index) => bytes.writeUInt32LE(value, 4 + index * 4));
  const extent = filename.replace(/\.[^.]*$/, '-delta.vmdk');
  writeFileSync(extent, bytes);
  writeFileSync(filename, descriptor('vmfsSparse', `RW ${capacity} VMFSSPARSE "${extent.slice(extent.lastIndexOf('/') + 1)}"`));
  return filename;
}

export interface SeSparseGrain {
  /** Number on the disk; grains are 4 KiB. */
  readonly grain: number;
  /** Its bytes, or what its entry says instead. */
  readonly content: Uint8Array | 'unmapped' | 'zero';
}

/** A seSparse disk as ESXi 6.5 lays it out. Returns the filename of its descriptor. */
export function seSparseDisk(filename: string, size: number, grains: readonly SeSparseGrain[], { journal = false } = {}): string {
  const tableCount = Math.ceil(size / (4096 * 4096));
  const used = new Map([...new Set(grains.map(({ grain }) => Math.floor(grain / 4096)))].map((table, index) => [table, index]));
  const stored = grains.filter(({ content }) => typeof content !== 'string');
  const directoryLength = Math.ceil(tableCount * 8 / sector);
  const place = { volatileHeader: 1, journalHeader: 2, journal: 4, directory: 8, tables: 8 + directoryLength, freeBitmap: 0, backmap: 0, grains: 0 };
  place.freeBitmap = place.tables + used.size * 64;
  place.backmap = place.freeBitmap + 1;
  place.grains = Math.ceil((place.backmap + 1) / 8) * 8;
  const bytes = Buffer.alloc((place.grains + stored.length * 8) * sector);
  const put = (at: number, value: bigint | number): void => void bytes.writeBigUInt64LE(BigInt(value), at);
  [0xcafebaben, 0x200000001n, BigInt(size / sector), 8n, 64n, 0n].forEach((value, index) => put(index * 8, value));
  [place.volatileHeader, 1, place.journalHeader, 2, place.journal, 4, place.directory, directoryLength, place.tables, used.size * 64,
    place.freeBitmap, 1, place.backmap, 1, place.grains, stored.length * 8].forEach((value, index) => put(80 + index * 8, value));
  put(place.volatileHeader * sector, 0xcafecafe);
  put(place.volatileHeader * sector + 8, used.size);
  if (journal) bytes[place.volatileHeader * sector + 24] = 1;
  for (const [table, index] of used) put(place.directory * sector + table * 8, 0x1000_0000_0000_0000n | BigInt(index));
  for (const { grain, content } of grains) {
    const at = (place.tables + used.get(Math.floor(grain / 4096))! * 64) * sector + (grain % 4096) * 8;
    if (content === 'unmapped') put(at, 1n << 60n);
    else if (content === 'zero') put(at, 2n << 60n);
    else {
      const index = BigInt(stored.findIndex((other) => other.grain === grain));
      put(at, (3n << 60n) | ((index & 0xfffn) << 48n) | (index >> 12n));
      bytes.set(content, (place.grains + Number(index) * 8) * sector);
    }
  }
  const extent = filename.replace(/\.[^.]*$/, '-sesparse.vmdk');
  writeFileSync(extent, bytes);
  writeFileSync(filename, descriptor('seSparse', `RW ${size / sector} SESPARSE "${extent.slice(extent.lastIndexOf('/') + 1)}"`));
  return filename;
}
