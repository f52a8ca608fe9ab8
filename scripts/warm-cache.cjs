// Runs common calls of the bundle in DIR, then writes V8's compiled form of what they used to DIR/main.cache.
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join, resolve } = require('node:path');
const { load } = require('../bin/start.cjs');

const { script, run } = load(resolve(process.argv[2]), false);
const folder = mkdtempSync(join(tmpdir(), 'vdisk-build-'));
const image = join(folder, 'image.qcow2');
const plain = join(folder, 'image.raw');
const calls = [
  ['qemu-img', 'create', '-f', 'qcow2', image, '1M'],
  ['qemu-io', '-c', 'write 0 4k', '-c', 'read 0 4k', image],
  ['qemu-img', 'info', image],
  ['qemu-img', 'convert', '-O', 'raw', image, plain],
  ['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', plain, join(folder, 'copy.qcow2')],
  ['qemu-img', 'compare', plain, image],
  ['qemu-img', 'check', image],
  ['qemu-img', 'map', '--output=json', image],
];
const ended = new Error('ended');
process.exit = () => { throw ended; };
(async () => {
  for (const [program, ...words] of calls) await run(program, words).catch((error) => { if (error !== ended) throw error; });
  writeFileSync(join(process.argv[2], 'main.cache'), script.createCachedData());
  rmSync(folder, { recursive: true });
})();
