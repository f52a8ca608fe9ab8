/** The image as qemu-nbd opens it: formats, snapshots, temporary overlays, offsets. */
import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Perm } from '../../../block/driver.js';
import type { BlockBackend } from '../../../block/child.js';
import { createImageFile } from '../../../block/create.js';
import { BlockError } from '../../../block/errors.js';
import type { OpenSpec } from '../../../block/graph.js';
import type { SnapshotReference } from '../../../image/snapshot-source.js';
import { imageSpec, prefixed, sharedGraph } from '../open.js';
import { CliError } from '../output.js';
import type { NbdToolOptions } from './options.js';

/** Undoes what opening left outside the graph. */
export interface OpenedImage { readonly backend: BlockBackend; dispose(): void }

export async function openExportImage(filename: string, options: NbdToolOptions): Promise<OpenedImage> {
  const graph = await sharedGraph();
  const access = {
    readOnly: options.readOnly, discard: options.discard, detectZeroes: options.detectZeroes,
    ...(options.cache && { cache: { direct: options.cache.direct, noFlush: options.cache.noFlush } }),
  };
  let dispose = (): void => undefined;
  let spec: OpenSpec = imageSpec(filename, options);
  let driver = options.format;
  try {
    if (options.snapshot) {
      const overlay = await temporaryOverlay(filename, options);
      dispose = overlay.dispose;
      spec = overlay.filename;
      driver = 'qcow2';
    }
    const node = await graph.open(spec, { driver, ...access });
    let top = node;
    try {
      if (options.loadSnapshot !== undefined) await loadSnapshot(node, options.loadSnapshot);
      if (options.offset > 0) {
        if (options.offset > node.size) throw new CliError(`Offset (${options.offset}) cannot be greater than size of the containing file (${node.size})`);
        top = await graph.open({ driver: 'raw', offset: options.offset, file: node.name }, access);
      }
      const take = Perm.CONSISTENT_READ | (options.readOnly ? 0 : Perm.WRITE);
      const backend = graph.attach(top, { take, share: Perm.ALL });
      backend.writethrough = options.cache?.writethrough ?? false;
      return { backend, dispose };
    } finally {
      if (top !== node) await graph.release(top);
      await graph.release(node);
    }
  } catch (error) {
    dispose();
    if (error instanceof BlockError) throw prefixed(`Failed to blk_new_open '${filename}'`, error);
    throw error;
  }
}

async function temporaryOverlay(filename: string, options: NbdToolOptions): Promise<{ readonly filename: string; dispose(): void }> {
  const graph = await sharedGraph();
  const backing = await graph.openBackend(imageSpec(filename, options), { driver: options.format, readOnly: true });
  const { size, node } = backing;
  const backingFormat = node.driver.name;
  await backing.close();
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-nbd-'));
  const dispose = (): void => rmSync(folder, { recursive: true, force: true });
  try {
    const overlay = join(folder, 'overlay.qcow2');
    await createImageFile(graph, { filename: overlay, format: 'qcow2', size, options: { backing_file: realpathSync(filename), backing_fmt: backingFormat } });
    return { filename: overlay, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

async function loadSnapshot(node: BlockBackend['node'], wanted: SnapshotReference | string): Promise<void> {
  const facet = node.facet('snapshots');
  if (facet === undefined) {
    throw new CliError(`Failed to load snapshot: Block format '${node.driver.name}' used by device '' does not support temporarily loading internal snapshots`);
  }
  const list = facet.list();
  const found = typeof wanted === 'string'
    ? list.find((each) => each.id === wanted) ?? list.find((each) => each.name === wanted)
    : list.find(({ id, name }) => (wanted.id ?? id) === id && (wanted.name ?? name) === name);
  if (found === undefined) throw new CliError("Failed to load snapshot: Can't find snapshot");
  await facet.load(found.id);
}
