import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import type { BlockDriver } from '../../block/driver.js';
import { memory } from '../../protocol/memory/index.js';
import { conformanceCases } from '../../testing/conformance.js';
import { raw } from './index.js';

/** A format known by its first byte, 'M'. */
const marked: BlockDriver = { ...raw, name: 'marked', probe: (head) => (head[0] === 0x4d ? 100 : 0) };
const graphOf = (warnings: string[] = []): BlockGraph => {
  const graph = new BlockGraph({ drivers: new DriverRegistry([memory, raw, marked]), gate: () => true });
  graph.onWarning = (line) => warnings.push(line);
  return graph;
};
const disk = { driver: 'memory', size: 1 << 20 };

describe('raw in conformance', () => {
  for (const { name, run } of conformanceCases({
    drivers: [memory, raw], size: 1 << 20, fresh: (wrap) => Promise.resolve({ driver: 'raw', file: wrap({ driver: 'memory', size: 1 << 20 }) }),
  })) it(name, run);
});
describe('raw with an offset in conformance', () => {
  for (const { name, run } of conformanceCases({
    drivers: [memory, raw], size: 1 << 20,
    fresh: (wrap) => Promise.resolve({ driver: 'raw', offset: 5000, file: wrap({ driver: 'memory', size: (1 << 20) + 5000 }) }),
  })) it(name, run);
});

describe('raw', () => {
  it('shows a part of a file, and keeps to it', async () => {
    await using graph = graphOf();
    const file = await graph.open(disk);
    const whole = graph.attach(file, { take: 15, share: 15 });
    await graph.release(file);
    const part = await graph.openBackend({ driver: 'raw', offset: 512, size: 1024, file: file.name }, { share: 15 });
    await part.write(0, new Uint8Array(1024).fill(9));
    const seen = new Uint8Array(2048);
    await whole.read(0, seen);
    expect(seen.indexOf(9)).toBe(512);
    expect(seen.lastIndexOf(9)).toBe(1535);
    expect(() => part.write(1024, new Uint8Array(1))).toThrow('Input/output error');
    await expect(part.resize(2048)).rejects.toThrow('Cannot resize fixed-size raw disks');
  });

  it.each([
    [{ size: 1000 }, 'Specified size is not multiple of 512'],
    [{ offset: 2 << 20 }, 'Offset (2097152) cannot be greater than size of the containing file (1048576)'],
    [{ offset: 1 << 20, size: 1024 }, 'The sum of offset (1048576) and size (1024) has to be smaller or equal to the  actual size of the containing file (1048576)'],
  ])('refuses %j', async (options, message) => {
    await using graph = graphOf();
    await expect(graph.open({ driver: 'raw', file: disk, ...options })).rejects.toThrow(message);
  });

  it('may become another part of the file while it is open', async () => {
    await using graph = graphOf();
    const part = await graph.openBackend({ driver: 'raw', file: disk }, { take: 1 | 2 });
    await graph.reopen(part.node, { options: { offset: '1536', size: 1024 } });
    expect(part.size).toBe(1024);
    expect(part.node.filename).toContain('"offset": 1536');
    await part.write(1023, new Uint8Array([7]));
    expect(() => part.write(1024, new Uint8Array(1))).toThrow('Input/output error');
    await expect(graph.reopen(part.node, { options: { size: 1 << 21 } })).rejects.toThrow('The sum of offset (1536) and size (2097152)');
    expect(part.size).toBe(1024);
    await graph.reopen(part.node, { options: { offset: 2048 } });
    const seen = new Uint8Array(1024);
    await part.read(0, seen);
    expect(seen.indexOf(7)).toBe(1536 + 1023 - 2048);
  });

  it('counts in sectors: an odd end reads as zero and may be completed', async () => {
    await using graph = graphOf();
    const odd = await graph.openBackend({ driver: 'raw', file: { driver: 'memory', size: 1000 } }, { take: 1 | 2 });
    expect(odd.size).toBe(1024);
    const target = new Uint8Array(1024).fill(1);
    await odd.read(0, target);
    expect(target.every((byte) => byte === 0)).toBe(true);
    await odd.write(900, new Uint8Array(124).fill(5));
    await odd.read(0, target);
    expect(target.lastIndexOf(5)).toBe(1023);
  });

  describe('that was guessed', () => {
    it('answers in whole sectors where it takes only those', async () => {
    await using graph = graphOf();
    const odd = await graph.openBackend({ file: { driver: 'memory', size: 1000 } }, { take: 1 | 2 });
    await odd.write(512, new Uint8Array(512).fill(1));
    expect(await odd.status(0, 1024)).toMatchObject({ length: 1024 });
  });

  it('warns, and never becomes what another format is known by', async () => {
      const warnings: string[] = [];
      await using graph = graphOf(warnings);
      const guessed = await graph.openBackend({ file: disk });
      expect(guessed.node.driver.name).toBe('raw');
      expect(warnings[0]).toMatch(/^WARNING: Image format was not specified for .* and probing guessed raw\.\n {9}Automatically/);
      const head = new Uint8Array(512);
      head[0] = 0x4d;
      expect(() => guessed.write(0, head)).toThrow('Operation not permitted');
      await expect((async () => guessed.write(0, head.subarray(0, 1)))()).rejects.toThrow('Operation not permitted');
      await guessed.write(512, head);
      await guessed.write(0, new Uint8Array(4096).fill(1));
      expect(graph.nodes.size).toBe(2);
    });

    it('is free where raw was asked for', async () => {
      const warnings: string[] = [];
      await using graph = graphOf(warnings);
      const named = await graph.openBackend({ driver: 'raw', file: disk });
      await named.write(0, new Uint8Array([0x4d]));
      expect(warnings).toEqual([]);
    });
  });
});
