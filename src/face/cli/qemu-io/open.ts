/** Opens the image qemu-io works on, as its switches or `open` ask. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createImageFile } from '../../../block/create.js';
import { Perm } from '../../../block/driver.js';
import { BlockError } from '../../../block/errors.js';
import type { BlockGraph } from '../../../block/graph.js';
import type { Options } from '../../../block/key-values.js';
import { sharedGraph, type CacheMode } from '../open.js';
import type { OpenImage } from './command.js';

export interface OpenRequest {
  readonly filename: string | undefined;
  readonly options: Options;
  readonly readOnly: boolean;
  readonly cache: CacheMode;
  readonly unmap: boolean;
  readonly forceShare: boolean;
  readonly copyOnRead: boolean;
  /** Changes go to a temporary overlay. */
  readonly temporary: boolean;
  readonly nativeAio: boolean;
}

/** Rejects with the layers' own BlockErrors. */
export async function openForCommands(request: OpenRequest): Promise<OpenImage> {
  const { readOnly, copyOnRead, forceShare, cache } = request;
  const graph = await sharedGraph();
  if (copyOnRead && readOnly) throw new BlockError('INVALID_ARGUMENT', "Can't use copy-on-read on read-only device");
  if (forceShare && !readOnly) throw new BlockError('INVALID_ARGUMENT', 'force-share=on can only be used with read-only images');
  if (request.nativeAio && !cache.direct) {
    throw new BlockError('INVALID_ARGUMENT', 'aio=native was specified, but it requires cache.direct=on, which was not specified.');
  }
  let options = request.filename === undefined ? request.options : graph.withFilename(request.filename, request.options) as Options;
  let folder: string | undefined;
  if (request.temporary && !readOnly) {
    folder = mkdtempSync(join(tmpdir(), 'vdisk-snapshot-'));
    options = await overlay(graph, options, join(folder, 'overlay.qcow2'));
  }
  try {
    const backend = await graph.openBackend(copyOnRead ? { driver: 'copy-on-read', file: options } : options, {
      readOnly,
      discard: request.unmap ? 'unmap' : 'ignore',
      cache,
      forceShare,
      take: Perm.CONSISTENT_READ | (readOnly ? 0 : Perm.WRITE),
      share: Perm.ALL,
    });
    backend.writethrough = cache.writethrough;
    return { graph, backend, hasImplicitFilter: copyOnRead };
  } finally {
    if (folder !== undefined) rmSync(folder, { recursive: true });
  }
}

async function overlay(graph: BlockGraph, backing: Options, filename: string): Promise<Options> {
  const base = await graph.openBackend(backing, { readOnly: true, take: 0, share: Perm.ALL });
  const { size } = base;
  await base.close();
  await createImageFile(graph, { filename, format: 'qcow2', size });
  return { driver: 'qcow2', file: { driver: 'file', filename }, backing: { ...backing, 'read-only': true } };
}
