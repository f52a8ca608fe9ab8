/** Makes Apple disk images of chunks of any kind, as no program outside macOS does. */
import { spawnSync } from 'node:child_process';
import { deflateSync } from 'node:zlib';
import { encodeLzfse } from './lzfse-encoder.js';

export type ChunkKind = 'zero' | 'raw' | 'ignored' | 'adc' | 'zlib' | 'bzip2' | 'lzfse' | 'xz';
export interface DmgChunk { readonly kind: ChunkKind; /** A multiple of 512 bytes. */ readonly data: Uint8Array }

const types: Readonly<Record<ChunkKind, number>> = {
  zero: 0, raw: 1, ignored: 2, adc: 0x8000_0004, zlib: 0x8000_0005, bzip2: 0x8000_0006, lzfse: 0x8000_0007, xz: 0x8000_0008,
};

function encode({ kind, data }: DmgChunk): Uint8Array {
  switch (kind) {
    case 'zero':
    case 'ignored': return new Uint8Array();
    case 'raw': return data;
    case 'adc': return encodeAdc(data);
    case 'zlib': return deflateSync(data);
    case 'lzfse': return encodeLzfse(data);
    case 'bzip2':
    case 'xz': {
      const { status, stdout } = spawnSync(kind, ['-c'], { input: data, maxBuffer: 1 << 28 });
      if (status !== 0) throw new Error(`${kind} failed`);
      return stdout;
    }
  }
}

/** All three forms of ADC's codes. */
export function encodeAdc(data: Uint8Array): Uint8Array {
  const out: number[] = [];
  const seen = new Map<number, number>();
  let run: number | undefined;
  for (let at = 0; at < data.length;) {
    const key = at + 4 <= data.length ? data[at]! | (data[at + 1]! << 8) | (data[at + 2]! << 16) : undefined;
    const found = key === undefined ? undefined : seen.get(key);
    if (key !== undefined) seen.set(key, at);
    const distance = found === undefined ? 0 : at - found;
    let length = 0;
    if (distance > 0 && distance <= 65_536) while (length < 67 && at + length < data.length && data[found! + length] === data[at + length]) length++;
    if (length >= 3 && length <= 18 && distance <= 1024) {
      out.push(((length - 3) << 2) | ((distance - 1) >>> 8), (distance - 1) & 255);
    } else if (length >= 4) {
      out.push(0x40 | (length - 4), (distance - 1) >>> 8, (distance - 1) & 255);
    } else {
      length = 1;
      if (run === undefined || out[run] === 0xff) {
        run = out.length;
        out.push(0x7f);
      }
      out[run]!++;
      out.push(data[at]!);
      at++;
      continue;
    }
    run = undefined;
    at += length;
  }
  return Uint8Array.from(out);
}

export interface DmgOptions {
  /** Where the tables of chunks are kept. */
  readonly tables?: 'property list' | 'resource fork';
  /** Bytes in front of the data fork, and behind the trailer. */
  readonly before?: number;
  readonly behind?: number;
  /** Chunks per table. */
  readonly perTable?: number;
}

export function makeDmg(chunks: readonly DmgChunk[], { tables = 'property list', before = 0, behind = 0, perTable = chunks.length }: DmgOptions = {}): Uint8Array {
  const stored = chunks.map(encode);
  const dataLength = stored.reduce((sum, { length }) => sum + length, 0);
  const sectors = chunks.reduce((sum, { data }) => sum + data.length / 512, 0);
  const blocks: Uint8Array[] = [];
  let sector = 0;
  let place = 0;
  for (let first = 0; first < chunks.length; first += perTable) {
    const members = chunks.slice(first, first + perTable);
    const table = Buffer.alloc(204 + (members.length + 1) * 40);
    const start = sector;
    table.write('mish');
    table.writeUInt32BE(1, 4);
    table.writeBigUInt64BE(BigInt(start), 8);
    table.writeUInt32BE(members.length + 1, 200);
    members.forEach(({ kind, data }, index) => {
      const at = 204 + index * 40;
      const { length } = stored[first + index]!;
      table.writeUInt32BE(types[kind], at);
      table.writeBigUInt64BE(BigInt(sector - start), at + 8);
      table.writeBigUInt64BE(BigInt(data.length / 512), at + 16);
      table.writeBigUInt64BE(BigInt(place), at + 24);
      table.writeBigUInt64BE(BigInt(length), at + 32);
      sector += data.length / 512;
      place += length;
    });
    table.writeUInt32BE(0xffff_ffff, 204 + members.length * 40);
    table.writeBigUInt64BE(BigInt(sector - start), 204 + members.length * 40 + 8);
    table.writeBigUInt64BE(BigInt(sector - start), 16);
    blocks.push(table);
  }
  const metadata = tables === 'property list' ? propertyList(blocks) : resourceFork(blocks);
  const trailer = Buffer.alloc(512);
  trailer.write('koly');
  trailer.writeUInt32BE(4, 4);
  trailer.writeUInt32BE(512, 8);
  trailer.writeUInt32BE(1, 12);
  trailer.writeBigUInt64BE(BigInt(before), 24);
  trailer.writeBigUInt64BE(BigInt(dataLength), 32);
  const where = tables === 'property list' ? 216 : 40;
  trailer.writeBigUInt64BE(BigInt(before + dataLength), where);
  trailer.writeBigUInt64BE(BigInt(metadata.length), where + 8);
  trailer.writeUInt32BE(1, 56);
  trailer.writeUInt32BE(1, 60);
  trailer.writeUInt32BE(1, 488);
  trailer.writeBigUInt64BE(BigInt(sectors), 492);
  return new Uint8Array(Buffer.concat([Buffer.alloc(before), ...stored, metadata, trailer, Buffer.alloc(behind)]));
}

function propertyList(blocks: readonly Uint8Array[]): Buffer {
  const entries = blocks.map((block, index) => `
\t\t\t<dict>
\t\t\t\t<key>Attributes</key><string>0x0050</string>
\t\t\t\t<key>CFName</key><string>disk image (${index})</string>
\t\t\t\t<key>Data</key>
\t\t\t\t<data>
\t\t\t\t${Buffer.from(block).toString('base64').replace(/.{44}/g, '$&\n\t\t\t\t')}
\t\t\t\t</data>
\t\t\t\t<key>ID</key><string>${index}</string>
\t\t\t\t<key>Name</key><string>disk image (${index})</string>
\t\t\t</dict>`).join('');
  return Buffer.from(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
\t<key>resource-fork</key>
\t<dict>
\t\t<key>blkx</key>
\t\t<array>${entries}
\t\t</array>
\t</dict>
</dict>
</plist>
`);
}

/** Header, data, then the map: one type, a reference to each table. */
function resourceFork(blocks: readonly Uint8Array[]): Buffer {
  const headerSize = 256;
  const data = Buffer.concat(blocks.flatMap((block) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(block.length);
    return [length, block];
  }));
  const map = Buffer.alloc(28 + 10 + blocks.length * 12);
  const header = Buffer.alloc(headerSize);
  header.writeUInt32BE(headerSize, 0);
  header.writeUInt32BE(headerSize + data.length, 4);
  header.writeUInt32BE(data.length, 8);
  header.writeUInt32BE(map.length, 12);
  header.copy(map, 0, 0, 16);
  map.writeUInt16BE(28, 24);
  map.writeUInt16BE(map.length, 26);
  map.writeUInt16BE(0, 28);
  map.write('blkx', 30);
  map.writeUInt16BE(blocks.length - 1, 34);
  map.writeUInt16BE(10, 36);
  let at = 0;
  blocks.forEach((block, index) => {
    map.writeUInt16BE(index, 38 + index * 12);
    map.writeUInt16BE(0xffff, 38 + index * 12 + 2);
    map.writeUInt32BE(at, 38 + index * 12 + 4);
    at += 4 + block.length;
  });
  return Buffer.concat([header, data, map]);
}
