/** VixDiskLib's long operations, killed before one of the changes they make: the disk is the old or the new one, and Cleanup leaves nothing else. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AdapterType, DiskLib, DiskType, OpenFlags, type Connection } from '../../src/face/vixdisklib/index.js';
import { havePeers } from '../support/peers.js';
import { randomBytes } from '../support/seed.js';
import { bundleVixDiskLib } from '../support/vix-library.js';

const project = join(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'vdisk-vix-killed-'));
const kept = join(folder, 'kept');
const work = join(folder, 'work');
const capacity = 8192;
let library: string;
let lib: DiskLib;
let host: Connection;

/** What the process does that is killed; `work` is its folder. */
const operations = {
  'Clone': 'await host.clone(at("new.vmdk"), host, at("sparse.vmdk"), { createParams: { diskType: 3 } })',
  'Clone over another disk': 'await host.clone(at("split.vmdk"), host, at("sparse.vmdk"), { createParams: { diskType: 3 }, overwrite: true })',
  'Clone over a disk of one file': 'await host.clone(at("small.vmdk"), host, at("sparse.vmdk"), { createParams: { diskType: 1 }, overwrite: true })',
  'Grow': 'await host.grow(at("split.vmdk"), 16384)',
  'Grow a flat disk': 'await host.grow(at("flat.vmdk"), 16384)',
  'Shrink': 'const disk = await host.open(at("split.vmdk"), {}); await disk.shrink()',
  'Defragment': 'const disk = await host.open(at("sparse.vmdk"), {}); await disk.defragment()',
  'CheckRepair': 'await host.checkRepair(at("broken.vmdk"), true)',
  'Rename': 'await host.rename(at("split.vmdk"), at("new.vmdk"))',
} as const;

beforeAll(async () => {
  library = await bundleVixDiskLib(folder);
  mkdirSync(kept);
  lib = await DiskLib.init();
  host = await lib.connect();
  for (const [name, diskType] of [['sparse', DiskType.MONOLITHIC_SPARSE], ['split', DiskType.SPLIT_SPARSE], ['small', DiskType.MONOLITHIC_SPARSE], ['broken', DiskType.MONOLITHIC_SPARSE], ['flat', DiskType.MONOLITHIC_FLAT]] as const) {
    const path = join(kept, `${name}.vmdk`);
    await host.create(path, { diskType, adapterType: AdapterType.SCSI_LSILOGIC, capacity });
    await using disk = await host.open(path);
    for (const grain of [40, 3, 20, 7]) await disk.write(grain * 128, randomBytes(65536));
    await disk.write(7 * 128, new Uint8Array(65536));
  }
  writeFileSync(join(folder, 'vix.conf'), `tmpDirectory=${folder}\n`);
  const bytes = readFileSync(join(kept, 'broken.vmdk'));
  // the redundant table does not say any more where grain 3 is
  bytes.writeUInt32LE(0, bytes.readUInt32LE(bytes.readUInt32LE(48) * 512) * 512 + 12);
  writeFileSync(join(kept, 'broken.vmdk'), bytes);
});
afterAll(async () => {
  await lib.close();
  rmSync(folder, { recursive: true });
});

function restoreFiles(): void {
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work);
  for (const name of readdirSync(kept)) copyFileSync(join(kept, name), join(work, name));
}

function run(operation: string, killAt?: number): { signal: string | null; stderr: string } {
  restoreFiles();
  const program = `import library from ${JSON.stringify(library)}; const { DiskLib } = library; const at = (name) => ${JSON.stringify(`${work}/`)} + name;
    const lib = await DiskLib.init({ configFile: ${JSON.stringify(join(folder, 'vix.conf'))} }); const host = await lib.connect(); ${operation}; await lib.close();`;
  const { signal, stderr } = spawnSync(process.execPath, ['--import', join(project, 'test/support/killed-at.mjs'), '--input-type=module', '-e', program], {
    cwd: folder, encoding: 'utf8', env: { ...process.env, VDISK_NATIVE: '0', ...(killAt !== undefined && { KILL_AT: String(killAt) }) },
  });
  return { signal, stderr };
}

/** What the disks of the folder hold, by name; the sizes of those that grew say so. */
async function contents(): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  for (const name of readdirSync(work).filter((each) => /^[a-z]+\.vmdk$/.test(each))) {
    await using disk = await host.open(join(work, name), { flags: OpenFlags.READ_ONLY });
    found.set(name, Buffer.from(await disk.read(0, disk.capacity)));
  }
  return found;
}

/** Random places beside those that are always tried. */
const kills = Number(process.env['VDISK_KILLS'] ?? 1);

describe.each(Object.entries(operations))('%s', (name, operation) => {
  it('is all or nothing', async () => {
    restoreFiles();
    const before = await contents();
    const whole = run(operation);
    const calls = Number(/^calls: (\d+)$/m.exec(whole.stderr)?.[1]);
    expect(calls, whole.stderr).toBeGreaterThan(1);
    const after = await contents();
    const filesAfter = readdirSync(work).sort();
    // the last calls are the most dangerous: names change
    const places = new Set([calls - 1, Math.max(1, calls - 4), ...Array.from({ length: kills }, () => 1 + randomBytes(4).readUInt32LE() % calls)]);
    for (const at of places) {
      const { signal, stderr } = run(operation, at);
      if (signal === null) throw new Error(`${name} was not killed at call ${at} of ${calls}: ${stderr}`);
      const said = `killed at call ${at} of ${calls}`;
      const found = await contents();
      for (const each of new Set([...before.keys(), ...after.keys()])) {
        const [old, now, is] = [before.get(each), after.get(each), found.get(each)];
        const same = (one: Buffer | undefined): boolean => (one === undefined ? is === undefined : is !== undefined && one.equals(is));
        expect(same(old) || same(now), `${said}: ${each}`).toBe(true);
      }
      const { remaining } = await lib.cleanup([work]);
      expect(remaining, said).toEqual([]);
      const left = readdirSync(work).sort();
      const mayBe = [readdirSync(kept).sort(), filesAfter];
      expect(mayBe.some((files) => JSON.stringify(files) === JSON.stringify(left)), `${said}: ${left.join(' ')}`).toBe(true);
      const clean = await contents();
      for (const [each, content] of clean) expect(found.get(each)?.equals(content), `${said}, after Cleanup: ${each}`).toBe(true);
      if (havePeers('qemu-img')) {
        for (const each of clean.keys()) {
          const { status, stdout, stderr } = spawnSync('qemu-img', ['check', '-f', 'vmdk', join(work, each)], { encoding: 'utf8' });
          expect(status, `${said}: ${each}: ${stdout}${stderr}`).toBe(0);
        }
      }
    }
  });
});
