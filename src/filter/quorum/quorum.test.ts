import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { raw } from '../../format/raw/index.js';
import { memory } from '../../protocol/memory/index.js';
import { conformanceCases } from '../../testing/conformance.js';
import { quorum } from './index.js';

const size = 1 << 20;
const graphOf = (): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([memory, quorum, raw]), gate: () => true });
const copies = (...names: string[]): Record<string, unknown>[] => names.map((name) => ({ driver: 'memory', size, 'node-name': name }));

describe('quorum in conformance', () => {
  for (const { name, run } of conformanceCases({
    drivers: [memory, quorum], size, fresh: (wrap) => Promise.resolve({
      driver: 'quorum', 'vote-threshold': 2, children: [1, 2, 3].map(() => wrap({ driver: 'memory', size })),
    }),
  })) it(name, run);
});

describe('quorum', () => {
  it('shows what enough copies agree on', async () => {
    await using graph = graphOf();
    const disk = await graph.openBackend({ driver: 'quorum', 'vote-threshold': 2, children: copies('a', 'b', 'c') });
    await disk.write(0, new Uint8Array(1024).fill(7));
    const spoil = async (name: string, value: number): Promise<void> => {
      const edge = graph.attach(graph.nodes.get(name)!, { take: 0, share: 15 });
      edge.take = 2;
      await edge.write(100, Uint8Array.of(value));
      edge.take = 0;
      await edge.close();
    };
    const target = new Uint8Array(1024);
    await spoil('b', 1);
    await disk.read(0, target);
    expect(target[100]).toBe(7);
    await spoil('c', 2);
    expect(() => disk.read(0, target)).toThrow('Input/output error');
  });

  it('takes the first answer where that is asked for', async () => {
    await using graph = graphOf();
    const disk = await graph.openBackend({ driver: 'quorum', 'vote-threshold': 1, 'read-pattern': 'fifo', 'children.0.driver': 'memory', 'children.0.size': size });
    await disk.write(5, Uint8Array.of(9));
    const target = new Uint8Array(1);
    await disk.read(5, target);
    expect(target[0]).toBe(9);
  });

  it.each([
    [{ 'vote-threshold': 0 }, "Parameter 'vote-threshold' expects a value >= 1"], [{ 'vote-threshold': 3 }, 'threshold may not exceed children count'],
    [{ 'vote-threshold': 1, 'blkverify': true }, 'neither'], [{ 'vote-threshold': 1, 'children': { x: {} } }, 'expects a list'],
  ])('refuses %j', async (options, message) => {
    await using graph = graphOf();
    await expect(graph.open({ driver: 'quorum', children: copies('a', 'b'), ...options })).rejects.toThrow(message);
  });
});
