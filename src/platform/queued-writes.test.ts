import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { copyBuffer } from './bytes.js';
import { QueuedWrites } from './queued-writes.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-queued-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('writes sent at once all arrive, each at its place, beyond 4 GiB too', async () => {
  const path = join(folder, 'disk');
  const fd = openSync(path, 'w+');
  const queue = QueuedWrites.of(fd)!;
  const pieces = Array.from({ length: 12 }, (_, at) => copyBuffer(1 << 20).fill(at + 1));
  expect(await Promise.all(pieces.map((piece, at) => queue.write(at * piece.length, piece)))).toEqual(pieces.map(() => 1 << 20));
  expect(readFileSync(path).equals(Buffer.concat(pieces))).toBe(true);
  const far = 5 * 2 ** 32 + 7;
  expect(await queue.write(far, Buffer.from('far'))).toBe(3);
  closeSync(fd);
  const { size } = statSync(path);
  expect(size).toBe(far + 3);
});

test('what the kernel refuses is told by its number', async () => {
  const fd = openSync(join(folder, 'read-only'), 'w');
  closeSync(fd);
  const readOnly = openSync(join(folder, 'read-only'), 'r');
  expect(await QueuedWrites.of(readOnly)!.write(0, Buffer.alloc(4096, 1))).toBe(-9);
  closeSync(readOnly);
  const full = openSync('/dev/full', 'w');
  expect(await QueuedWrites.of(full)!.write(0, Buffer.alloc(4096, 1))).toBe(-28);
  closeSync(full);
});
