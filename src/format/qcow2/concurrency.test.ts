import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { BlockBackend, BlockChild } from '../../block/child.js';
import { Perm, Req, type BlockDriver } from '../../block/driver.js';
import { FilterOps } from '../../block/filter-ops.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { memory } from '../../protocol/memory/index.js';
import { qcow2 } from './index.js';

/** Decides how long each request below the image takes, in turns of the event loop. */
type Delays = () => number;

class SlowOps extends FilterOps {
  readonly #delays: Delays;
  constructor(child: BlockChild, delays: Delays) {
    super(child);
    this.#delays = delays;
  }
  override async read(offset: number, target: Uint8Array, flags: number): Promise<void> {
    await turns(this.#delays());
    await this.child.read(offset, target, flags);
    await turns(this.#delays());
  }
  override async write(offset: number, source: Uint8Array, flags: number): Promise<void> {
    await turns(this.#delays());
    await this.child.write(offset, source, flags);
    await turns(this.#delays());
  }
  override async writeZeroes(offset: number, length: number, flags: number): Promise<void> {
    await turns(this.#delays());
    await this.child.writeZeroes(offset, length, flags);
  }
  override async flush(): Promise<void> {
    await turns(this.#delays());
    await this.child.flush();
  }
  override close(): Promise<void> { return Promise.resolve(); }
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

async function openSlowly(options: Record<string, string | number | boolean>, size: number, delays: Delays): Promise<{ graph: BlockGraph; disk: BlockBackend }> {
  let pace: Delays = () => 0;
  const slow: BlockDriver = {
    name: 'slow', kind: 'filter', options: {}, children: { file: { role: 'filtered' } },
    open: (context) => new SlowOps(context.child('file')!, () => pace()),
  };
  const graph = new BlockGraph({ drivers: new DriverRegistry([memory, qcow2, slow]) });
  const keeper = await graph.openBackend({ driver: 'memory', 'node-name': 'store' }, { take: 0 });
  const store = graph.attach(keeper.node, { take: Perm.ALL, share: Perm.ALL });
  await qcow2.create!(store, { ...options, size }, {
    filename: 'memory', createFile: () => Promise.reject(new Error('no file')), openBacking: () => Promise.reject(new Error('no backing')), object: () => undefined, openTarget: async (extra = {}) => {
      await store.close();
      return graph.openBackend({ driver: 'qcow2', file: 'store', ...extra });
    }, warn: () => undefined,
  });
  const disk = await graph.openBackend({ driver: 'qcow2', discard: 'unmap', 'l2-cache-size': 0, file: { driver: 'slow', file: 'store' } });
  pace = delays;
  return { graph, disk };
}

const unit = 512;
const slots = 256;
/** Layouts that put many, some and few of the slots into one cluster. */
const layouts = fc.constantFrom(
  { cluster_size: 512 }, { cluster_size: 4096 }, { cluster_size: 65536 }, { cluster_size: 16384, extended_l2: true }, { cluster_size: 4096, lazy_refcounts: true },
);

// Seen to fail: the first and the third without the exclusive range lock of writes that allocate, the second when space is reused
// without waiting for reads (readsSettled).
describe('requests beside one another', () => {
  it('never mix up bytes: writes and reads of slots of their own, while whole clusters are discarded and zeroed', async () => {
    await fc.assert(fc.asyncProperty(layouts, fc.array(fc.nat(3), { minLength: 20, maxLength: 40 }), fc.infiniteStream(fc.nat(1000)), async (layout, paces, stream) => {
      let step = 0;
      const next = (limit: number): number => stream.next().value! % limit;
      const { graph, disk } = await openSlowly(layout, slots * unit, () => paces[step++ % paces.length]!);
      const content = new Uint8Array(slots).fill(0);
      for (let round = 0; round < 5; round++) {
        const free = new Set(Array.from({ length: slots }, (_, slot) => slot));
        const take = (start: number, count: number): boolean => {
          for (let slot = start; slot < start + count; slot++) if (!free.has(slot)) return false;
          for (let slot = start; slot < start + count; slot++) free.delete(slot);
          return true;
        };
        const work: Promise<unknown>[] = [];
        for (let request = 0; request < 40; request++) {
          const perCluster = layout.cluster_size / unit;
          const kind = next(5);
          const whole = kind >= 3 && perCluster <= slots / 2;
          const count = whole ? perCluster : Math.min(1 + next(12), slots);
          const start = whole ? next(slots / perCluster) * perCluster : next(slots - count);
          if (!take(start, count)) continue;
          if (kind <= 1) {
            const fill = 1 + next(250);
            work.push(Promise.resolve(disk.write(start * unit, new Uint8Array(count * unit).fill(fill))).then(() => content.fill(fill, start, start + count)));
          } else if (kind === 2 || !whole) {
            const target = new Uint8Array(count * unit);
            work.push(Promise.resolve(disk.read(start * unit, target)).then(() => {
              for (let at = 0; at < target.length; at++) {
                if (target[at] !== content[start + Math.floor(at / unit)]) throw new Error(`slot ${start + Math.floor(at / unit)} reads ${target[at]}, holds ${content[start + Math.floor(at / unit)]}`);
              }
            }));
          } else {
            const request = kind === 3 ? disk.discard(start * unit, count * unit) : disk.writeZeroes(start * unit, count * unit, Req.MAY_UNMAP);
            work.push(Promise.resolve(request).then(() => content.fill(0, start, start + count)));
          }
        }
        if (next(2) === 0) work.push(Promise.resolve(disk.flush()));
        await Promise.all(work);
        const all = new Uint8Array(slots * unit);
        await disk.read(0, all);
        expect(all.filter((_, at) => at % unit === 0)).toEqual(content);
      }
      const check = disk.facet('check')!;
      await disk.flush();
      expect(await check.check({ repair: 'none' })).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
      await graph.close();
    }), { numRuns: 30 });
  });

  it('a read under way keeps its bytes although its cluster is given up and taken by another write', async () => {
    let pace = 0;
    const { graph, disk } = await openSlowly({ cluster_size: 4096 }, 1 << 20, () => pace);
    await disk.write(0, new Uint8Array(4096).fill(1));
    await disk.flush();
    pace = 30;
    const target = new Uint8Array(4096);
    const reading = disk.read(0, target);
    pace = 0;
    await disk.discard(0, 4096);
    const writing = disk.write(65536, new Uint8Array(4096).fill(2));
    await reading;
    await writing;
    // Old content or zeroes: anything but the other cluster's bytes.
    expect(new Set(target)).toEqual(new Set([1]));
    const status = await disk.status(65536, 4096);
    expect(status.host?.offset).toBe(5 * 4096);
    await graph.close();
  });

  it('overlapping first writes to a cluster all arrive', async () => {
    const { graph, disk } = await openSlowly({ cluster_size: 65536 }, 1 << 20, () => 2);
    await Promise.all(Array.from({ length: 16 }, (_, at) => disk.write(at * 4096, new Uint8Array(4096).fill(at + 1))));
    const all = new Uint8Array(65536);
    await disk.read(0, all);
    for (let at = 0; at < 16; at++) expect(all[at * 4096 + 7]).toBe(at + 1);
    const { allocatedClusters } = await disk.facet('check')!.check({ repair: 'none' });
    expect(allocatedClusters).toBe(1);
    await graph.close();
  });
});
