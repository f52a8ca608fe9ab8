import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { callLater, koffi, type ForeignFunction } from './koffi.js';
import { QueuedWrites } from './queued-writes.js';

const library = koffi();
const folder = mkdtempSync(join(tmpdir(), 'vdisk-koffi-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe.skipIf(library === undefined)('calls on other threads', () => {

  it('are all made, though koffi takes no more than 256 at a time', async () => {
    const add: ForeignFunction = library!.load(null).func('labs', 'long', ['long']);
    const results = await Promise.all(Array.from({ length: 2000 }, (_, at) => new Promise<number>((resolve, reject) => {
      callLater({ call: add, parameters: [-at], ended: (failure, result) => (failure ? reject(failure) : resolve(Number(result))) });
    })));
    expect(results).toEqual(Array.from({ length: 2000 }, (_, at) => at));
  });

  it('leave none of a file\'s writes unended where others have taken all there are', async () => {
    const sleep: ForeignFunction = library!.load(null).func('usleep', 'int', ['uint32_t']);
    let sleeping = 0;
    expect(() => {
      for (let at = 0; at < 1000; at++) {
        sleep.async(1000, () => { sleeping--; });
        sleeping++;
      }
    }).toThrow('Too many');
    expect(sleeping).toBeGreaterThan(100);
    const path = join(folder, 'disk');
    const fd = openSync(path, 'w');
    const queue = QueuedWrites.of(fd)!;
    const pieces = Array.from({ length: 12 }, (_, at) => Buffer.alloc(1 << 16, at + 1));
    expect(await Promise.all(pieces.map((piece, at) => queue.write(at << 16, piece)))).toEqual(pieces.map(() => 1 << 16));
    expect(readFileSync(path).equals(Buffer.concat(pieces))).toBe(true);
    closeSync(fd);
    while (sleeping > 0) await setTimeout(1);
  });
});
