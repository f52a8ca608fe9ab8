import { describe, expect, it } from 'vitest';
import { raw } from '../format/raw/index.js';
import { memory } from '../protocol/memory/index.js';
import { blkdebug } from '../filter/blkdebug/index.js';
import type { BlockChild } from './child.js';
import { Perm, readOnlyCapabilities, type BlockDriver, type Capabilities } from './driver.js';
import { FilterOps } from './filter-ops.js';
import { BlockGraph } from './graph.js';
import type { OptionValue } from './options.js';
import { DriverRegistry } from './registry.js';

class Tunable extends FilterOps {
  readonly changes: unknown[] = [];
  override reopen(change: { readonly readOnly: boolean; readonly options?: Readonly<Record<string, OptionValue>> }): Promise<void> {
    this.changes.push(change);
    return change.options?.['speed'] === 13 ? Promise.reject(new Error('unlucky')) : Promise.resolve();
  }
}
const tunable: BlockDriver<{ speed?: number; shape?: string }> = {
  name: 'tunable', kind: 'filter', options: { speed: { type: 'number', mutable: true }, shape: { type: 'string' } }, children: { file: { role: 'filtered' } },
  open: (context) => new Tunable(context.child('file')!),
};
class Reader extends FilterOps {
  readonly fails: boolean;
  constructor(child: BlockChild, fails: boolean) {
    super(child);
    this.fails = fails;
  }
  override get capabilities(): Capabilities { return readOnlyCapabilities; }
  override reopen(): Promise<void> { return this.fails ? Promise.reject(new Error('unlucky')) : Promise.resolve(); }
}
const reader: BlockDriver<{ fails?: boolean }> = {
  name: 'reader', kind: 'filter', options: { fails: { type: 'boolean' } }, children: { file: { role: 'filtered' } },
  open: ({ child, options }) => new Reader(child('file')!, options.fails === true),
};
const graphOf = (): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([memory, raw, blkdebug, tunable, reader]), gate: () => true });
const spec = { driver: 'tunable', shape: 'round', 'node-name': 'top', file: { driver: 'raw', 'node-name': 'below', file: { driver: 'memory', size: 1 << 20 } } };

describe('reopen', () => {
  it('hands changed options to the layer they are for, typed, and keeps the rest', async () => {
    await using graph = graphOf();
    const disk = await graph.openBackend(spec);
    await graph.reopen(disk.node, { options: { speed: '3', driver: 'tunable', shape: 'round', 'node-name': 'top', discard: 'unmap', cache: { 'no-flush': 'on' }, file: { 'detect-zeroes': 'on' } } });
    expect((disk.node.ops as Tunable).changes).toEqual([{ readOnly: false, options: { speed: 3 } }]);
    expect(disk.node.settings).toMatchObject({ discard: 'unmap', noFlush: true, detectZeroes: 'off' });
    expect(graph.nodes.get('below')!.settings.detectZeroes).toBe('on');
  });

  it.each([
    [{ shape: 'square' }, "Cannot change the option 'shape'"], [{ driver: 'raw' }, "Cannot change the option 'driver'"],
    [{ file: { 'node-name': 'x' } }, "Cannot change the option 'node-name'"], [{ file: 'nobody' }, "Cannot find device='' nor node-name='nobody'"],
    [{ speed: 'fast' }, "Parameter 'speed' expects a number"], [{ cache: { writeback: 'on' } }, "Cannot change the option 'cache.writeback'"],
    [{ discard: 'x' }, 'Invalid discard option'], [{ 'read-only': 'x' }, "Parameter 'read-only' expects 'on' or 'off'"],
    [{ 'read-only': 'on' }, "Read-only block node 'top' cannot support read-write users"],
  ])('refuses %j and changes nothing', async (options, message) => {
    await using graph = graphOf();
    const disk = await graph.openBackend(spec);
    await expect(graph.reopen(disk.node, { options: { discard: 'unmap', ...options } })).rejects.toThrow(message);
    expect((disk.node.ops as Tunable).changes).toEqual([]);
    expect(disk.node.settings.discard).toBe('ignore');
  });

  it('makes a disk writable and read-only again', async () => {
    await using graph = graphOf();
    const disk = await graph.openBackend(spec, { readOnly: true });
    expect(() => disk.write(0, new Uint8Array(1))).toThrow('Operation not permitted');
    await graph.reopen(disk.node, { readOnly: false });
    const writer = graph.attach(disk.node, { take: Perm.WRITE, share: Perm.ALL });
    await writer.write(0, new Uint8Array(1));
    await expect(graph.reopen(disk.node, { readOnly: true })).rejects.toThrow('cannot support read-write users');
    await writer.close();
    await graph.reopen(disk.node, { readOnly: true });
    expect(graph.nodes.get('below')!.readOnly).toBe(true);
  });

  it('leaves the files of a layer that does not become writable as they were', async () => {
    for (const fails of [false, true]) {
      await using graph = graphOf();
      const disk = await graph.openBackend({ driver: 'reader', fails, file: spec }, { readOnly: true });
      const reopened = graph.reopen(disk.node, { readOnly: false });
      if (fails) await expect(reopened).rejects.toThrow('unlucky');
      else await reopened;
      expect([disk.node, graph.nodes.get('top')!, graph.nodes.get('below')!].map(({ readOnly }) => readOnly)).toEqual([true, true, true]);
    }
  });
});

it('refuses a filename beside one that stands for the same', async () => {
  await using graph = graphOf();
  expect(() => graph.withFilename('x', { driver: 'raw', 'file.filename': 'y' })).toThrow("Can't specify 'file' and 'filename' options at the same time");
  await expect(graph.open({ driver: 'raw', filename: 'x' })).rejects.toThrow('A block device must be specified for "file"');
});
