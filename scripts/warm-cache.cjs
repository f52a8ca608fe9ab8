// Runs calls of the bundle in DIR, and writes V8's compiled form of what they used beside its scripts. What few calls need would be in
// the way of all the others: main.cjs is kept as the common ones leave it.
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join, resolve } = require('node:path');
const { load } = require('../bin/start.cjs');

const { scripts, run } = load(resolve(process.argv[2]), false);
const folder = mkdtempSync(join(tmpdir(), 'vdisk-build-'));
const image = join(folder, 'image.qcow2');
const plain = join(folder, 'image.raw');
const common = [
  ['qemu-img', 'create', '-f', 'qcow2', image, '1M'],
  ['qemu-img', 'info', image],
  ['qemu-img', 'convert', '-O', 'raw', image, plain],
  ['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', plain, join(folder, 'copy.qcow2')],
  ['qemu-img', 'compare', plain, image],
  ['qemu-img', 'check', image],
  ['qemu-img', 'map', '--output=json', image],
];
const others = [
  ['qemu-io', '-c', 'write 0 4k', '-c', 'read 0 4k', image],
  ...['qcow', 'qed', 'vdi', 'vhdx', 'vmdk', 'vpc', 'parallels'].flatMap((format) => {
    const other = join(folder, `image.${format}`);
    return [['qemu-img', 'convert', '-O', format, image, other], ['qemu-img', 'info', other], ['qemu-img', 'convert', '-f', format, '-O', 'raw', other, plain]];
  }),
];
const ended = new Error('ended');
process.exit = () => { throw ended; };
const make = async (calls) => {
  for (const [program, ...words] of calls) await run(program, words).catch((error) => { if (error !== ended) throw error; });
};
const keep = (name) => writeFileSync(join(process.argv[2], `${name}.cache`), scripts.get(name).script.createCachedData());
(async () => {
  await make(common);
  keep('main');
  await make(others);
  for (const name of scripts.keys()) if (name !== 'main') keep(name);
  rmSync(folder, { recursive: true });
})();
