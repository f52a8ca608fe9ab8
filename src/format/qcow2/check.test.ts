import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testSeed } from '../../../test/support/seed.js';
import { BlockError } from '../../block/errors.js';
import { BlockGraph } from '../../block/graph.js';
import { createRegistry } from '../../drivers.js';

let folder: string;
const qemuImg = process.env['QEMU_IMG_PROG'] ?? 'qemu-img';
const qemuIo = process.env['QEMU_IO_PROG'] ?? 'qemu-io';
beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'qcow2-check-')); });
afterAll(() => { rmSync(folder, { recursive: true }); });

function qemu(args: string[], program = qemuImg): { status: number; out: string; err: string } {
  const done = spawnSync(program, args, { encoding: 'utf8' });
  return { status: done.status ?? -1, out: done.stdout, err: done.stderr };
}

interface Outcome { lines: string[]; counts: Record<string, number | undefined>; error: string | undefined }

/** What `qemu-img check` does: check, and check again if anything was repaired. */
async function ours(file: string, repair: 'none' | 'leaks' | 'all'): Promise<Outcome> {
  const lines: string[] = [];
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  graph.onReport = (line) => lines.push(line);
  const report = { report: (line: string) => lines.push(line), reportError: (line: string) => lines.push(...`qemu-img: ${line}`.split('\n')) };
  let counts: Outcome['counts'] = {};
  let error: string | undefined;
  const backend = await graph.openBackend({ driver: 'qcow2', file: { driver: 'file', filename: file } }, { check: true, readOnly: repair === 'none' });
  try {
    const { check } = backend.facet('check')!;
    let result = await check({ repair, ...report });
    const fixed = { 'leaks-fixed': result.leaksFixed, 'corruptions-fixed': result.corruptionsFixed };
    if (result.leaksFixed + result.corruptionsFixed > 0) result = await check({ repair: 'none', ...report });
    counts = {
      'check-errors': result.checkErrors, 'corruptions': result.corruptions, 'leaks': result.leaks, 'image-end-offset': result.imageEndOffset,
      'total-clusters': result.totalClusters, 'allocated-clusters': result.allocatedClusters, 'fragmented-clusters': result.fragmentedClusters,
      'compressed-clusters': result.compressedClusters, ...fixed,
    };
  } catch (caught) {
    if (!(caught instanceof BlockError)) throw caught;
    error = caught.message;
  }
  await backend.close().catch(() => undefined);
  for (const [key, value] of Object.entries(counts)) if (value === undefined || (value === 0 && key !== 'check-errors')) delete counts[key];
  return { lines, counts, error };
}

function makeImages(): Map<string, Uint8Array> {
  const images = new Map<string, Uint8Array>();
  const file = join(folder, 'seed');
  const make = (name: string, options: string, steps: string[][]): void => {
    execFileSync(qemuImg, ['create', '-q', '-f', 'qcow2', '-o', options, file, '4M']);
    for (const step of steps) {
      if (step[0] === 'io') execFileSync(qemuIo, [...step.slice(1).flatMap((command) => ['-c', command]), file]);
      else execFileSync(qemuImg, [...step, file]);
    }
    images.set(name, new Uint8Array(readFileSync(file)));
  };
  const writes = ['io', 'write 0 300k', 'write -z 1M 200k', 'write -c 2M 64k', 'write -c 2112k 64k', 'write 3M 8k'];
  make('plain', 'cluster_size=64k', [writes]);
  make('snapshots', 'cluster_size=64k', [writes, ['snapshot', '-c', 'one'], ['io', 'write 64k 128k'], ['snapshot', '-c', 'two']]);
  make('small', 'cluster_size=4k,refcount_bits=8', [writes]);
  make('extended', 'cluster_size=16k,extended_l2=on', [writes, ['io', 'write 1500k 1k']]);
  return images;
}

describe('check agrees with qemu-img', () => {
  for (const seed of new Set([9, ...Array.from({ length: 4 }, (_, index) => 4 * testSeed + index)])) {
    it(`on damaged images (seed ${seed})`, async () => {
      let state = seed * 2654435761;
      const random = (limit: number): number => {
        state = (Math.imul(state, 1103515245) + 12345) >>> 0;
        return Math.floor(state / 65536) % limit;
      };
      const file = join(folder, 'damaged');
      for (const [name, bytes] of makeImages()) {
        for (let round = 0; round < 8; round++) {
          const damaged = bytes.slice();
          const view = new DataView(damaged.buffer);
          const used: number[] = [];
          for (let at = 2 ** view.getUint32(20); at + 8 <= damaged.length; at += 8) {
            const data = view.getUint32(at) === 0xcdcdcdcd || view.getUint32(at + 4) === 0xcdcdcdcd;
            if (!data && (view.getUint32(at) !== 0 || view.getUint32(at + 4) !== 0)) used.push(at);
          }
          const log: string[] = [];
          for (let hit = 0; hit <= random(3); hit++) {
            const at = used[random(used.length)]! + random(8);
            const value = [0, 0, 1 << random(8), random(256)][random(4)]!;
            log.push(`${at.toString(16)}=${value.toString(16)}`);
            damaged[at] = value;
          }
          const repair = (['none', 'leaks', 'all'] as const)[random(3)]!;
          writeFileSync(file, damaged);
          const theirs = qemu(['check', '--output=json', ...(repair === 'none' ? [] : ['-r', repair]), '-f', 'qcow2', file]);
          // it ends itself now and then (seed 46)
          if (theirs.status === -1) continue;
          if (theirs.err.includes('Could not open') || theirs.err.includes('could not resize') || theirs.err.includes('Cannot allocate memory')) continue;
          writeFileSync(file, damaged);
          const mine = await ours(file, repair);
          const where = `${name} ${repair} ${log.join(' ')}`;
          const lines = mine.lines.concat(mine.error === undefined ? [] : [`qemu-img: Check failed: ${mine.error}`]);
          const failed = theirs.err.includes('qemu-img: Check failed: ');
          const counts = failed ? {} : Object.fromEntries(Object.entries(JSON.parse(theirs.out) as object).filter(([key]) => key !== 'filename' && key !== 'format'));
          // Offsets beyond 2^53 come out rounded.
          const rounded = (line: string): string => line.replace(/0x[0-9a-f]{14,}/, 'beyond');
          expect({ where, lines: lines.map(rounded), counts: mine.counts }).toEqual({
            where, counts, lines: theirs.err.split('\n').filter((line) => line !== '' && line !== 'qemu-img: Check failed' && !line.startsWith('qemu-img: warning')).map(rounded),
          });
        }
      }
    });
  }
});
