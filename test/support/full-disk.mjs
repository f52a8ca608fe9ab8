// Run in a mount namespace of its own: VixDiskLib's operations on a file system with less and less room left.
//   full-disk.mjs LIBRARY FOLDER, on standard input { prepare, operation }: texts of programs. Prints what came of each, as JSON.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync, statfsSync, statSync, writeFileSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [library, folder] = process.argv.slice(2);
const { prepare, operation } = JSON.parse(readFileSync(0, 'utf8'));
const vix = createRequire(import.meta.url)(library);
const place = join(folder, 'small');
mkdirSync(place, { recursive: true });
execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'none', place]);
writeFileSync(join(folder, 'conf'), `tmpDirectory=${folder}\n`);
const lib = await vix.DiskLib.init({ configFile: join(folder, 'conf') });
const host = await lib.connect();
const at = (name) => join(place, name);
const program = (text) => new (Object.getPrototypeOf(async () => undefined).constructor)('vix', 'host', 'at', 'writeFileSync', text);
const [prepared, operated] = [program(prepare), program(operation)];

/** Bytes at the start of all disks that no operation here writes. */
const untouched = 1 << 19;
const hash = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** All files, and whether the disks among them are sound. */
async function state() {
  const found = {};
  for (const name of readdirSync(place).sort()) {
    const { size, blocks } = statSync(at(name));
    found[name] = { size, blocks, content: hash(readFileSync(at(name))) };
    if (!/^[a-z]+\.vmdk$/.test(name)) continue;
    const disk = await host.open(at(name), { flags: vix.OpenFlags.READ_ONLY });
    found[name].guest = hash((await disk.read(0, disk.capacity)).subarray(0, untouched));
    await disk.close();
    found[name].corruptions = (await host.checkRepair(at(name), false)).corruptions;
  }
  return found;
}

const rounds = [];
for (let room = 0, failed = true; failed; room += room < 65536 ? 4096 : 65536) {
  for (const name of readdirSync(place)) rmSync(at(name));
  await prepared(vix, host, at, writeFileSync);
  const before = await state();
  const { bavail, bsize } = statfsSync(place);
  if (bavail * bsize < room) throw new Error(`it fails even with ${room} bytes`);
  writeFileSync(at('filler'), new Uint8Array(bavail * bsize - room));
  const symbol = await operated(vix, host, at, writeFileSync).then(() => undefined, (error) => error.symbol ?? String(error));
  failed = symbol !== undefined;
  rmSync(at('filler'));
  rounds.push({ room, symbol, before, after: await state() });
}
await lib.close();
process.stdout.write(JSON.stringify(rounds));
