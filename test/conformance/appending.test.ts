/** The suite on formats that append clusters found through tables: qed, vdi and qcow. */
import { afterAll, describe, it } from 'vitest';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { allDrivers, createRegistry } from '../../src/drivers.js';
import { conformanceCases } from '../../src/testing/conformance.js';

const size = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), 'vdisk-conformance-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;
const objects = new Map([['key', { type: 'secret', id: 'key', properties: { data: 'correct horse' } }]]);

async function make(format: string, options: Record<string, string | number | boolean> = {}): Promise<string> {
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true, objects });
  const filename = join(folder, `${count++}.${format}`);
  await createImageFile(graph, { filename, format, size, options });
  return filename;
}

const kinds: readonly { readonly name: string; readonly format: string; readonly fresh: () => Promise<string> }[] = [
  { name: 'qed', format: 'qed', fresh: () => make('qed') },
  { name: 'qed with small clusters and tables', format: 'qed', fresh: () => make('qed', { cluster_size: 4096, table_size: 1 }) },
  { name: 'qed overlay', format: 'qed', fresh: async () => make('qed', { backing_file: await make('qed'), cluster_size: 4096 }) },
  { name: 'vdi', format: 'vdi', fresh: () => make('vdi') },
  { name: 'vdi, fixed', format: 'vdi', fresh: () => make('vdi', { static: true }) },
  { name: 'qcow', format: 'qcow', fresh: () => make('qcow') },
  { name: 'qcow overlay', format: 'qcow', fresh: async () => make('qcow', { backing_file: await make('qcow') }) },
];

for (const { name: kind, format, fresh } of kinds) {
  describe(kind, () => {
    for (const { name, run } of conformanceCases({
      drivers: allDrivers, size, persistent: true,
      fresh: async (wrap) => ({ driver: format, file: wrap({ driver: 'file', filename: await fresh(), cache: { 'no-flush': true } }) }),
    })) it(name, run);
  });
}
