import { describe, expect, it } from 'vitest';
import type { BlockBackend, BlockChild } from '../../block/child.js';
import { Req, type BlockDriver, type Capabilities, type LayerExtent } from '../../block/driver.js';
import type { Facets } from '../../block/facets.js';
import { FilterOps } from '../../block/filter-ops.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { memory } from '../../protocol/memory/index.js';
import { conformanceCases } from '../../testing/conformance.js';
import { copyOnRead } from './index.js';

const cluster = 4096;

/** An overlay that keeps its map in memory: whole clusters of the file, the rest from below. */
class Overlay extends FilterOps {
  readonly allocated = new Set<number>();
  readonly log: string[] = [];
  override readonly limits = { requestAlignment: cluster, maxTransfer: 0, maxWriteZeroes: 0, maxDiscard: 0, writeZeroesAlignment: 0, discardAlignment: 0 };
  readonly #backing: BlockChild | undefined;
  constructor(file: BlockChild, backing: BlockChild | undefined) {
    const capabilities: Capabilities = { write: true, writeFlags: Req.UNCHANGED, zeroFlags: undefined, discard: false, resize: 'none', growsOnWrite: false };
    super(file, () => capabilities);
    this.#backing = backing;
  }
  override read(offset: number, target: Uint8Array): void {
    for (let at = 0; at < target.length; at += cluster) {
      const piece = target.subarray(at, at + cluster);
      if (this.allocated.has(offset + at)) void this.child.read(offset + at, piece);
      else if (this.#backing) void this.#backing.read(offset + at, piece);
      else piece.fill(0);
    }
  }
  override write(offset: number, source: Uint8Array, flags: number): void {
    this.log.push(`${(flags & Req.UNCHANGED) !== 0 ? 'copy' : 'write'} ${offset / cluster}+${source.length / cluster}`);
    for (let at = 0; at < source.length; at += cluster) this.allocated.add(offset + at);
    void this.child.write(offset, source);
  }
  override status(offset: number, length: number): LayerExtent {
    const own = this.allocated.has(offset);
    let end = cluster;
    while (end < length && this.allocated.has(offset + end) === own) end += cluster;
    return own ? { kind: 'data', length: end, host: { child: this.child, offset } } : { kind: 'backing', length: end };
  }
  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    const facets: Partial<Facets> = { formatInfo: { clusterSize: cluster, specific: () => undefined } };
    return facets[name];
  }
}
const overlay: BlockDriver = {
  name: 'overlay', kind: 'format', options: {}, children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  open: async (context) => new Overlay(context.child('file')!, await context.implicitChild('backing', { kind: 'backing', filename: '', role: 'cow' })),
};
const disk = { driver: 'memory', size: 16 * cluster };
const graphOf = (): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([memory, overlay, copyOnRead]), gate: () => true });

describe('copy-on-read in conformance', () => {
  for (const { name, run } of conformanceCases({
    drivers: [memory, copyOnRead], size: 1 << 20, fresh: (wrap) => Promise.resolve({ driver: 'copy-on-read', file: wrap({ driver: 'memory', size: 1 << 20 }) }),
  }).filter((each) => !each.name.startsWith('read-only'))) it(name, run);
});

describe('copy-on-read', () => {
  const chain = async (graph: BlockGraph, options: Record<string, unknown> = {}): Promise<{ top: Overlay; backend: BlockBackend }> => {
    const held = await graph.open({ ...disk, 'node-name': 'base' });
    const base = graph.attach(held, { take: 3, share: 15 });
    await base.write(0, new Uint8Array(16 * cluster).fill(7));
    await base.close();
    const backend = await graph.openBackend({
      driver: 'copy-on-read', file: { driver: 'overlay', file: disk, backing: { driver: 'overlay', 'node-name': 'middle', file: disk, backing: 'base' } }, ...options,
    });
    await graph.release(held);
    return { top: backend.node.children.get('file')!.node.ops as Overlay, backend };
  };

  it('copies whole clusters, and only those that are not there yet', async () => {
    await using graph = graphOf();
    const { top, backend } = await chain(graph);
    await backend.write(2 * cluster, new Uint8Array(cluster).fill(1));
    top.log.length = 0;
    const target = new Uint8Array(3 * cluster);
    await backend.read(cluster + 100, target);
    expect(top.log).toEqual(['copy 1+1', 'copy 3+2']);
    expect([target[0], target[cluster], target[2 * cluster]]).toEqual([7, 1, 7]);
    await backend.read(cluster, target);
    expect(top.log).toHaveLength(2);
  });

  it('stops above the layer below `bottom`', async () => {
    await using graph = graphOf();
    const { top, backend } = await chain(graph, { bottom: 'middle' });
    await backend.read(0, new Uint8Array(cluster));
    expect(top.log).toEqual([]);
    await expect(chain(graphOf(), { bottom: 'nobody' })).rejects.toThrow("Bottom node 'nobody' not found");
  });

  it('needs an image that can be written', async () => {
    await using graph = graphOf();
    await expect(graph.openBackend({ driver: 'copy-on-read', file: disk }, { readOnly: true })).rejects.toThrow('Block node is read-only');
  });
});
