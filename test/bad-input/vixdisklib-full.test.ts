/** VixDiskLib on a file system that fills up: each operation with room for less and less, until there is none. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bundleVixDiskLib } from '../support/vix-library.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-vix-full-'));
const program = join(import.meta.dirname, '../support/full-disk.mjs');
const namespace = process.getuid?.() === 0 ? ['-m'] : ['-rm'];
let library: string;

beforeAll(async () => { library = await bundleVixDiskLib(folder); });
afterAll(() => rmSync(folder, { recursive: true }));

/** Whether a small file system may be mounted, in a namespace of its own. Where CI=true it must. */
function mayMount(): boolean {
  const { status, stderr } = spawnSync('unshare', [...namespace, 'mount', '-t', 'tmpfs', 'none', folder], { encoding: 'utf8' });
  if (status === 0) return true;
  const text = `No file system can be mounted here: ${stderr}`;
  if (process.env['CI'] === 'true') throw new Error(text);
  console.warn(`!!! ${text}. Full disks are NOT tested.`);
  return false;
}

interface FileState { readonly size: number; readonly blocks: number; readonly content: string; readonly guest?: string; readonly corruptions?: number }
interface Round { readonly room: number; readonly symbol?: string; readonly before: Record<string, FileState>; readonly after: Record<string, FileState> }

/** Runs an operation again and again, with 4 KiB more each time, until it succeeds. */
function rounds(operation: string, prepare: string): { readonly failed: readonly Round[]; readonly last: Round } {
  const { status, stdout, stderr } = spawnSync('unshare', [...namespace, process.execPath, program, library, folder], {
    encoding: 'utf8', input: JSON.stringify({ prepare, operation }), maxBuffer: 1 << 26,
  });
  if (status !== 0) throw new Error(stderr);
  const all = JSON.parse(stdout) as Round[];
  return { failed: all.slice(0, -1), last: all.at(-1)! };
}

const fill = 'const bytes = new Uint8Array(65536).map((_, at) => at % 251 + 1); const write = async (name, ...grains) => { const disk = await host.open(at(name)); for (const grain of grains) await disk.write(grain * 128, bytes); await disk.close(); };';
const make = (name: string, type: keyof typeof types, capacity = 2048): string => `await host.create(at("${name}.vmdk"), { diskType: ${types[type]}, adapterType: 3, capacity: ${capacity} });`;
const types = { sparse: 1, flat: 2, splitSparse: 3, splitFlat: 4, vmfs: 5 } as const;
const source = `${fill} ${make('source', 'sparse')} await write("source.vmdk", 9, 2, 5, 7);`;
/** Two extents, the first of which says how large all are. */
const halves = `const lines = [1, 2].map((number) => \`RW 1024 FLAT "halves-f00\${number}.vmdk" 0\`).join("\\n");
  writeFileSync(at("halves.vmdk"), \`# Disk DescriptorFile\\nversion=1\\nCID=12345678\\nparentCID=ffffffff\\ncreateType="twoGbMaxExtentFlat"\\n\${lines}\\nddb.adapterType = "ide"\\nddb.geometry.cylinders = "2"\\nddb.geometry.heads = "16"\\nddb.geometry.sectors = "63"\\n\`);
  for (const number of [1, 2]) writeFileSync(at(\`halves-f00\${number}.vmdk\`), new Uint8Array(524288).fill(number));`;
const clone = (target: string, params: string): string => `await host.clone(at("${target}.vmdk"), host, at("source.vmdk"), ${params});`;

describe.skipIf(!mayMount())('what does not fit is VIX_E_DISK_FULL, and nothing is changed or left', () => {
  it.each([
    ['Create sparse', make('new', 'sparse'), ''], ['Create flat', make('new', 'flat'), ''], ['Create split sparse', make('new', 'splitSparse'), ''],
    ['Create split flat', make('new', 'splitFlat'), ''], ['Create vmfs', make('new', 'vmfs'), ''],
    ['Clone to sparse', clone('new', '{ createParams: { diskType: 1 } }'), source],
    ['Clone to split flat', clone('new', '{ createParams: { diskType: 4 } }'), source],
    ['Clone to stream-optimized', clone('new', '{ createParams: { diskType: 6 } }'), source],
    ['Clone over another disk', clone('old', '{ createParams: { diskType: 3 }, overwrite: true }'), `${source} ${make('old', 'splitSparse')} await write("old.vmdk", 3);`],
    ['CreateChild', 'const disk = await host.open(at("source.vmdk"), { flags: 4 }); try { await disk.createChild(at("child.vmdk"), { diskType: 3 }); } finally { await disk.close(); }', source],
    ['Grow sparse', 'await host.grow(at("source.vmdk"), 300000);', source],
    ['Grow flat', 'await host.grow(at("flat.vmdk"), 4096);', `${fill} ${make('flat', 'flat')} await write("flat.vmdk", 1, 3);`],
    ['Grow vmfs', 'await host.grow(at("flat.vmdk"), 4096);', `${fill} ${make('flat', 'vmfs')} await write("flat.vmdk", 1, 3);`],
    ['Grow split flat', 'await host.grow(at("halves.vmdk"), 4000);', halves],
    ['Shrink', 'const disk = await host.open(at("source.vmdk")); try { await disk.shrink(); } finally { await disk.close(); }', source],
    ['Defragment', 'const disk = await host.open(at("source.vmdk")); try { await disk.defragment(); } finally { await disk.close(); }', source],
    ['Rename', 'await host.rename(at("halves.vmdk"), at("new.vmdk"));', halves],
    ['WriteMetadata flat', 'const disk = await host.open(at("halves.vmdk")); try { await disk.metadata.set("note", "x".repeat(5000)); } finally { await disk.close(); }', halves],
  ])('%s', (_name, operation, prepare) => {
    const { failed, last } = rounds(operation, prepare);
    expect(failed.length).toBeGreaterThan(0);
    for (const { room, symbol, before, after } of failed) {
      expect(symbol, `${room} bytes are left`).toBe('VIX_E_DISK_FULL');
      expect(after, `${room} bytes are left`).toEqual(before);
    }
    expect(last.after).not.toEqual(last.before);
    for (const { corruptions = 0 } of Object.values(last.after)) expect(corruptions).toBe(0);
  });

  const written = 'new Uint8Array(262144).fill(9)';
  const open = 'const disk = await host.open(at("source.vmdk")); try {';
  const close = '} finally { await disk.close(); }';
  it.each([
    ['Write', `${open} await disk.write(1280, ${written}); await disk.flush(); ${close}`, source],
    ['Write to a disk for ESX', `${open} await disk.write(1280, ${written}); await disk.flush(); ${close}`, source.replace('diskType: 1', 'diskType: 8')],
    ['WriteAsync', `${open} const result = await new Promise((done) => vix.VixDiskLib_WriteAsync(disk, 1280, 512, ${written}, (_, code) => done(code)));
      if (result !== 0) throw { symbol: vix.errorSymbol(result) }; ${close}`, source],
  ])('%s: what was there before stays', (_name, operation, prepare) => {
    const { failed, last } = rounds(operation, prepare);
    expect(failed.length).toBeGreaterThan(0);
    for (const { room, symbol, before, after } of failed) {
      expect(symbol, `${room} bytes are left`).toBe('VIX_E_DISK_FULL');
      expect(Object.keys(after)).toEqual(Object.keys(before));
      expect(after['source.vmdk'], `${room} bytes are left`).toMatchObject({ guest: before['source.vmdk']!.guest, corruptions: 0 });
    }
    expect(last.after['source.vmdk']).toMatchObject({ guest: last.before['source.vmdk']!.guest, corruptions: 0 });
  });
});
