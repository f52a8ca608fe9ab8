import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { BlockOps, OpenContext } from '../../block/driver.js';
import { memory, type MemoryOptions } from './index.js';

const exactly = { preallocation: 'off', exact: true, zeroNew: true } as const;

async function open(size?: number): Promise<BlockOps> {
  return memory.open({ options: size === undefined ? {} : { size } } as OpenContext<MemoryOptions>);
}
async function bytes(ops: BlockOps, offset: number, length: number): Promise<Uint8Array> {
  const target = new Uint8Array(length).fill(0xee);
  await ops.read(offset, target, 0);
  return target;
}

describe('memory', () => {
  it('does as a plain byte array does', async () => {
    const limit = 400_000;
    const at = fc.nat(limit - 1);
    const step = fc.record({ kind: fc.constantFrom('write', 'zero', 'discard', 'resize'), offset: at, length: fc.nat(150_000), fill: fc.integer({ min: 1, max: 255 }) });
    await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      const ops = await open(200_000);
      const model = new Uint8Array(limit);
      let size = 200_000;
      for (const { kind, offset, length: wanted, fill } of steps) {
        const length = Math.min(wanted, kind === 'discard' ? Math.max(size - offset, 0) : limit - offset);
        if (kind === 'write') await ops.write(offset, new Uint8Array(length).fill(fill), 0);
        else if (kind === 'zero') await ops.writeZeroes(offset, length, 0);
        else if (kind === 'discard') await ops.discard(offset, length);
        else await ops.resize(offset, exactly);
        if (kind === 'resize') size = offset;
        else if (kind !== 'discard') size = Math.max(size, offset + length);
        if (kind === 'write') model.fill(fill, offset, offset + length);
        else if (kind === 'resize') model.fill(0, size);
        else model.fill(0, offset, offset + length);
        expect(ops.size).toBe(size);
        expect(Buffer.compare(await bytes(ops, 0, size), model.subarray(0, size))).toBe(0);
        for (let position = 0; position < size;) {
          const extent = await ops.status(position, size - position, true);
          expect(extent.length).toBeGreaterThan(0);
          if (extent.kind === 'zero') expect(model.subarray(position, position + extent.length).every((byte) => byte === 0)).toBe(true);
          position += extent.length;
        }
      }
    }), { numRuns: 60 });
  });

  it('stays sparse over terabytes', async () => {
    const ops = await open(64 * 2 ** 40);
    await ops.write(50 * 2 ** 40, new Uint8Array([1, 2, 3]), 0);
    expect(await ops.facet('allocatedSize')?.allocatedSize()).toBe(65536);
    await ops.writeZeroes(1, 64 * 2 ** 40 - 1, 0);
    expect(await ops.facet('allocatedSize')?.allocatedSize()).toBe(0);
  });

  it('answers without a promise', async () => {
    const ops = await open(4096);
    expect(ops.write(0, new Uint8Array(4096), 0)).toBeUndefined();
    expect(ops.read(0, new Uint8Array(4096), 0)).toBeUndefined();
  });
});
