import { describe, expect, it } from 'vitest';
import { run } from '../../util/steps.js';
import type { VhdxHeader } from './header.js';
import { brokenLog, buildEntry, readLog, type PendingLog } from './log.js';

const MiB = 1 << 20;
const guid = 'b48d4f94-c3be-4f10-9f3b-3d6f2a1b0c0d';
const header: VhdxHeader = { sequence: 1n, fileWriteGuid: guid, dataWriteGuid: guid, logGuid: guid, logVersion: 0, logLength: MiB, logOffset: MiB };
const page = (value: number): Uint8Array => Uint8Array.from({ length: 4096 }, (_, index) => (value + index) & 0xff);

/** A file of 8 MiB with these entries in its log. */
function fileWith(...entries: readonly { readonly at: number; readonly bytes: Uint8Array }[]): Uint8Array {
  const bytes = new Uint8Array(8 * MiB);
  for (const entry of entries) {
    const first = Math.min(entry.bytes.length, MiB - entry.at);
    bytes.set(entry.bytes.subarray(0, first), MiB + entry.at);
    bytes.set(entry.bytes.subarray(first), MiB);
  }
  return bytes;
}

function readAll(file: Uint8Array): PendingLog | typeof brokenLog | undefined {
  const pending = run(readLog({ size: file.length, read: (offset, target) => target.set(file.subarray(offset, offset + target.length)) }, header));
  if (pending instanceof Promise) throw new Error('nothing waits here');
  return pending;
}

function read(file: Uint8Array): PendingLog | undefined {
  const pending = readAll(file);
  if (pending === brokenLog) throw new Error('the log is broken');
  return pending;
}

const entry = (at: number, sequence: bigint, value: number, tail = at): { at: number; bytes: Uint8Array } => {
  const bytes = buildEntry({ at: tail, guid, sequence, flushedSize: 8 * MiB, fileSize: 8 * MiB, pages: [{ offset: 4 * MiB, bytes: page(value) }] });
  return { at, bytes };
};

describe('log', () => {
  it('gives pages back whole, first and last bytes included', () => {
    const pages = [{ offset: 4 * MiB, bytes: page(3) }, { offset: 5 * MiB + 4096, bytes: page(200) }];
    const bytes = buildEntry({ at: 0, guid, sequence: (5n << 32n) + 9n, flushedSize: 8 * MiB, fileSize: 9 * MiB, pages });
    const pending = read(fileWith({ at: 0, bytes }));
    expect(pending?.fileSize).toBe(9 * MiB);
    expect(pending?.updates.map(({ offset }) => offset)).toEqual([4 * MiB, 5 * MiB + 4096]);
    pending?.updates.forEach((update, index) => expect(update.bytes).toEqual(pages[index]!.bytes));
  });

  it('the entry with the highest number holds; torn, the one before', () => {
    const older = entry(0, 1n, 1);
    const newer = entry(MiB / 2, 2n, 2);
    expect(read(fileWith(older, newer))?.updates[0]?.bytes).toEqual(page(2));
    newer.bytes[5000]! ^= 1;
    expect(read(fileWith(older, newer))?.updates[0]?.bytes).toEqual(page(1));
  });

  it('an entry that the file ends within is none', () => {
    const [whole, cut] = [entry(0, 1n, 1), entry(MiB / 2, 2n, 2)];
    expect(() => read(fileWith(whole, cut).subarray(0, 1.5 * MiB + 20))).toThrow('it has 1572884 bytes, 8388608 when its log was written');
  });

  it('a sequence is applied from its tail to its head, around the end of the ring, too', () => {
    const tail = MiB - 4096;
    const sequence = [entry(tail, 1n, 1), entry(4096, 2n, 2, tail), entry(3 * 4096, 3n, 3, tail)];
    expect(read(fileWith(...sequence))?.updates.map(({ bytes }) => bytes?.[0])).toEqual([1, 2, 3]);
  });

  it('a head whose tail is gone does not hold, and makes the log a broken one', () => {
    expect(readAll(fileWith(entry(8192, 2n, 2, 0)))).toBe(brokenLog);
  });

  it('entries of another time are nothing', () => {
    const { bytes } = { bytes: buildEntry({ at: 0, guid: guid.replace('b4', 'b5'), sequence: 1n, flushedSize: 0, fileSize: 0, pages: [] }) };
    expect(read(fileWith({ at: 0, bytes }))).toBeUndefined();
  });

  it('refuses a file that was cut off since', () => {
    const bytes = buildEntry({ at: 0, guid, sequence: 1n, flushedSize: 9 * MiB, fileSize: 9 * MiB, pages: [] });
    expect(() => read(fileWith({ at: 0, bytes }))).toThrow('VHDX image is truncated');
  });
});
