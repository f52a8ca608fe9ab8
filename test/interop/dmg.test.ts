/** Apple disk images that we make read like what went into them, by us, by 7-Zip and, where it has the codec, by qemu-img. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import { createRegistry } from '../../src/drivers.js';
import { content } from '../support/disk-model.js';
import { makeDmg, type ChunkKind, type DmgChunk, type DmgOptions } from '../support/dmg-maker.js';
import { havePeers, oracleTool } from '../support/peers.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-dmg-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Compressible in ways that call for short and long references, with stretches that are not. */
function mixed(seed: number, length: number): Uint8Array {
  const bytes = content(seed, length);
  const words = new TextEncoder().encode('an image of a disk, and of a disk an image; ');
  for (let at = 0; at < length; at += 4096) {
    if ((at >>> 12) % 3 === 1) for (let i = at; i < Math.min(at + 4096, length); i++) bytes[i] = words[(i * ((at >>> 12) % 7 + 1)) % words.length]!;
    if ((at >>> 12) % 3 === 2) bytes.copyWithin(at, Math.max(0, at - 3000 - seed), Math.max(0, at - 3000 - seed) + Math.min(3500, length - at));
  }
  return bytes;
}

const kinds: readonly ChunkKind[] = ['raw', 'adc', 'zlib', 'bzip2', 'lzfse', 'xz'];
const all: readonly DmgChunk[] = kinds.flatMap((kind, index): DmgChunk[] => [
  { kind, data: mixed(index + 1, 512 * (100 + index * 37)) }, { kind: index % 2 === 0 ? 'zero' : 'ignored', data: new Uint8Array(512 * 50) },
]);
const joined = (chunks: readonly DmgChunk[]): Buffer => Buffer.concat(chunks.map(({ data }) => data));

async function readByUs(file: string): Promise<Buffer> {
  const graph = new BlockGraph({ drivers: createRegistry() });
  try {
    const disk = await graph.openBackend(file, { driver: 'dmg', readOnly: true });
    const bytes = Buffer.alloc(disk.size);
    // in odd pieces, backwards
    for (let end = disk.size; end > 0; end -= Math.min(end, 77_777)) await disk.read(Math.max(0, end - 77_777), bytes.subarray(Math.max(0, end - 77_777), end));
    return bytes;
  } finally {
    await graph.close();
  }
}

function write(name: string, chunks: readonly DmgChunk[], options?: DmgOptions): string {
  const file = join(folder, name);
  writeFileSync(file, makeDmg(chunks, options));
  return file;
}

describe.skipIf(!havePeers('bzip2', 'xz'))('dmg files', () => {
  for (const kind of kinds) {
    it(`with ${kind} chunks read as what they hold`, async () => {
      const chunks = [{ kind, data: mixed(9, 200 * 1024) }, { kind, data: new Uint8Array(512) }];
      const file = write(`${kind}.dmg`, chunks);
      expect(joined(chunks).equals(await readByUs(file))).toBe(true);
      if (havePeers('7zz')) expect(joined(chunks).equals(spawnSync('7zz', ['e', '-tdmg', '-so', file], { maxBuffer: 1 << 28 }).stdout)).toBe(true);
    });
  }

  for (const options of [{}, { tables: 'resource fork' }, { before: 1000, behind: 300 }, { perTable: 5 }] satisfies DmgOptions[]) {
    it(`with chunks of all kinds read as what they hold: ${JSON.stringify(options)}`, async () => {
      const file = write('all.dmg', all, options);
      expect(joined(all).equals(await readByUs(file))).toBe(true);
    });
  }

  it('read like in QEMU 10 where it knows the chunks', async () => {
    const qemuImg = oracleTool('qemu-img');
    if (qemuImg === undefined) return;
    const chunks = all.filter(({ kind }) => ['raw', 'zero', 'ignored', 'zlib'].includes(kind));
    for (const tables of ['property list', 'resource fork'] as const) {
      const file = write('qemu.dmg', chunks, { tables });
      const raw = join(folder, 'qemu.raw');
      const { status, stderr } = spawnSync(qemuImg, ['convert', '-f', 'dmg', '-O', 'raw', file, raw], { encoding: 'utf8' });
      expect({ status, stderr: stderr.replaceAll(/^qemu: module .*\n/gm, '') }).toEqual({ status: 0, stderr: '' });
      const compared = spawnSync('cmp', [raw, '-'], { input: await readByUs(file) });
      expect(compared.status).toBe(0);
    }
  });

  it('are refused by name where they are encrypted, sparse or cut into segments', async () => {
    const plain = makeDmg(all.slice(0, 2));
    const variants: [RegExp, Uint8Array][] = [
      [/Encrypted dmg files are not supported \(encryption wrapper version 2\)/, Uint8Array.from([...Buffer.from('encrcdsa'), ...plain])],
      [/Encrypted dmg files are not supported \(encryption wrapper version 1\)/, Uint8Array.from([...plain, ...Buffer.from('cdsaencr')])],
      [/Apple sparse images are not supported/, Uint8Array.from([...Buffer.from('sprs'), ...plain])],
      [/in 3 segments are not supported/, Uint8Array.from(plain, (byte, index) => (index === plain.length - 512 + 63 ? 3 : byte))],
      [/UDIF version 5 is not supported/, Uint8Array.from(plain, (byte, index) => (index === plain.length - 512 + 7 ? 5 : byte))],
      [/Could not locate UDIF trailer in dmg file/, plain.subarray(0, plain.length - 512)],
      [/dmg file must be at least 512 bytes long/, plain.subarray(0, 100)],
    ];
    for (const [message, bytes] of variants) {
      const file = join(folder, 'refused.dmg');
      writeFileSync(file, bytes);
      await expect(readByUs(file)).rejects.toThrow(message);
    }
  });
});
