import { describe, expect, it } from 'vitest';
import { memory } from '../protocol/memory/index.js';
import { isPromise, type MaybePromise } from '../util/maybe.js';
import { BlockOps, Perm, Req, type BlockDriver, type Capabilities, type HostRange, type LayerExtent } from './driver.js';
import { BlockGraph } from './graph.js';
import { DriverRegistry } from './registry.js';
import type { BlockChild } from './child.js';

/** A passthrough that can hold requests back and asks for sector alignment. */
class SlowFilter extends BlockOps {
  override readonly limits = { requestAlignment: 512, maxTransfer: 0, maxWriteZeroes: 0, maxDiscard: 0, writeZeroesAlignment: 0, discardAlignment: 0 };
  override readonly capabilities: Capabilities = { write: true, writeFlags: 0, zeroFlags: undefined, discard: true, resize: 'any', growsOnWrite: false };
  hold: Promise<void> | undefined;
  readonly image: BlockChild;
  constructor(image: BlockChild) {
    super();
    this.image = image;
  }
  get size(): number { return this.image.size; }
  read(offset: number, target: Uint8Array): MaybePromise<void> {
    return this.hold ? this.hold.then(() => this.image.read(offset, target)) : this.image.read(offset, target);
  }
  override write(offset: number, source: Uint8Array): MaybePromise<void> {
    return this.hold ? this.hold.then(() => this.image.write(offset, source)) : this.image.write(offset, source);
  }
  status(offset: number, length: number): LayerExtent {
    const host: HostRange = { child: this.image, offset };
    return { kind: 'child', length, host };
  }
  override resize(size: number): Promise<void> { return this.image.resize(size); }
  close(): Promise<void> { return Promise.resolve(); }
}
const slow: BlockDriver = {
  name: 'slow', kind: 'filter', options: {}, children: { file: { role: 'filtered' } },
  open: (context) => new SlowFilter(context.child('file')!),
};
const graphOf = (): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([memory, slow]) });

describe('BlockGraph', () => {
  it('completes a cached read synchronously through all layers', async () => {
    const graph = graphOf();
    const backend = await graph.openBackend({ driver: 'slow', file: { driver: 'slow', file: { driver: 'memory', size: 1 << 20 } } });
    const data = new Uint8Array(4096).fill(7);
    expect(isPromise(backend.write(8192, data))).toBe(false);
    const target = new Uint8Array(4096);
    expect(isPromise(backend.read(8192, target))).toBe(false);
    expect(target).toEqual(data);
    await graph.close();
    expect(graph.nodes.size).toBe(0);
  });

  it.each([undefined, Req.MAY_UNMAP])('writes no zeroes out where a quick way is asked for that the driver does not know (zero flags %s)', async (zeroFlags) => {
    const graph = graphOf();
    const backend = await graph.openBackend({ driver: 'slow', file: { driver: 'memory', size: 4096 } });
    await backend.write(0, new Uint8Array(4096).fill(7));
    const { ops } = backend.node;
    Object.assign(ops, { capabilities: { ...ops.capabilities, zeroFlags }, writeZeroes: () => { throw new Error('asked nevertheless'); } });
    await expect((async () => backend.writeZeroes(0, 512, Req.NO_FALLBACK))()).rejects.toThrow('Operation not supported');
    const target = new Uint8Array(4096);
    await backend.read(0, target);
    expect(target.every((byte) => byte === 7)).toBe(true);
    await graph.close();
  });

  it('pads unaligned requests and never loses a neighbour written meanwhile', async () => {
    const graph = graphOf();
    const node = await graph.open({ driver: 'slow', file: { driver: 'memory', size: 4096 } });
    const backend = graph.attach(node, { take: Perm.ALL, share: Perm.ALL });
    const ops = node.ops as SlowFilter;
    let release!: () => void;
    ops.hold = new Promise((resolve) => { release = resolve; });
    const first = backend.write(10, new Uint8Array(10).fill(1));
    const second = backend.write(30, new Uint8Array(10).fill(2));
    const third = backend.write(0, new Uint8Array(512).fill(3));
    release();
    await Promise.all([first, second, third]);
    const target = new Uint8Array(512);
    await backend.read(0, target);
    expect([...target.subarray(0, 4)]).toEqual([3, 3, 3, 3]);
    ops.hold = undefined;
    await backend.write(10, new Uint8Array(3).fill(9));
    await backend.read(0, target);
    expect([...target.subarray(8, 15)]).toEqual([3, 3, 9, 9, 9, 3, 3]);
    await backend.close();
  });

  it('holds new requests back while drained and waits for those in flight', async () => {
    const graph = graphOf();
    const node = await graph.open({ driver: 'slow', file: { driver: 'memory', size: 4096 } });
    const backend = graph.attach(node, { take: Perm.ALL, share: Perm.ALL });
    const ops = node.ops as SlowFilter;
    let release!: () => void;
    ops.hold = new Promise((resolve) => { release = resolve; });
    const order: string[] = [];
    const before = Promise.resolve(backend.read(0, new Uint8Array(512))).then(() => order.push('before'));
    const drained = graph.drained([node.children.get('file')!.node], () => { order.push('drained'); });
    const after = Promise.resolve(backend.read(0, new Uint8Array(512))).then(() => order.push('after'));
    release();
    await Promise.all([before, drained, after]);
    expect(order).toEqual(['before', 'drained', 'after']);
    await backend.close();
  });

  it('refuses a second writer by name and keeps the first working', async () => {
    const graph = graphOf();
    const node = await graph.open({ driver: 'memory', 'node-name': 'disk', size: 4096 });
    const first = graph.attach(node, { name: 'guest', take: Perm.WRITE, share: Perm.CONSISTENT_READ });
    expect(() => graph.attach(node, { name: 'backup', take: Perm.WRITE, share: Perm.ALL })).toThrow(/unshared by block device 'guest'/);
    await first.write(0, new Uint8Array(512));
    await first.close();
  });

  it('denies guessing a format unless the gate allows it', async () => {
    const graph = graphOf();
    await expect(graph.open({ file: { driver: 'memory', size: 512 } })).rejects.toMatchObject({ code: 'GATE_DENIED' });
    expect(graph.nodes.size).toBe(0);
  });

  it('rejects unknown options and drivers by name and leaves nothing open', async () => {
    const graph = graphOf();
    await expect(graph.open({ driver: 'slow', nonsense: 1, file: { driver: 'memory', size: 512 } })).rejects.toThrow(/does not support the option 'nonsense'/);
    await expect(graph.open({ driver: 'nope' })).rejects.toThrow(/Unknown driver 'nope'/);
    expect(graph.nodes.size).toBe(0);
  });
});
