// Converting to and from every format, qemu-img against ours: node bench/formats.mjs [--pairs N] [--only WORD] [--dir DIR] [--mib N]
// The peer is $QEMU_IMG_PROG or qemu-img of the path; ours is bin/qemu-img. Data in DIR (default /dev/shm), from page cache.
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { randomFillSync } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { pairs, row, seconds } from './pairs.mjs';

const { values } = parseArgs({ options: {
  pairs: { type: 'string', default: '5' }, only: { type: 'string', default: '' }, dir: { type: 'string', default: '/dev/shm' }, mib: { type: 'string', default: '512' },
} });
const ours = fileURLToPath(new URL('../bin/qemu-img', import.meta.url));
const peer = process.env.QEMU_IMG_PROG ?? 'qemu-img';
const dir = `${values.dir}/vdisk-bench-formats`;
rmSync(dir, { recursive: true, force: true });
mkdirSync(dir, { recursive: true });

const secret = ['--object', 'secret,id=key,data=passphrase'];
const kinds = [
  ['qcow2'], ['qcow'], ['qed'], ['vdi'], ['vdi', 'static=on'], ['vpc', 'subformat=dynamic,force_size=on'], ['vpc', 'subformat=fixed,force_size=on'], ['vhdx'],
  ['vmdk', 'subformat=monolithicSparse'], ['vmdk', 'subformat=monolithicFlat'], ['vmdk', 'subformat=streamOptimized'], ['parallels'], ['luks', 'iter-time=10'],
];

const source = `${dir}/disk.raw`;
const file = openSync(source, 'w');
for (let i = 0; i < Number(values.mib); i++) writeSync(file, randomFillSync(Buffer.alloc(1 << 20)), 0, 1 << 20, i << 20);
closeSync(file);

function writing(format, options, target) {
  const encrypted = format === 'luks';
  const all = [options, encrypted && 'key-secret=key'].filter(Boolean).join(',');
  return ['convert', ...(encrypted ? secret : []), '-f', 'raw', '-O', format, ...(all ? ['-o', all] : []), source, target];
}
function reading(format, from, target) {
  if (format === 'luks') return ['convert', ...secret, '--image-opts', `driver=luks,key-secret=key,file.filename=${from}`, '-O', 'raw', target];
  return ['convert', '-f', format, '-O', 'raw', from, target];
}
async function bench(name, list) {
  if (!name.includes(values.only)) return;
  const run = (program, who) => async () => {
    const place = `${dir}/${who}`;
    rmSync(place, { recursive: true, force: true });
    mkdirSync(place);
    return seconds([program, ...list(`${place}/out`)]);
  };
  row(name, 's', await pairs(Number(values.pairs), run(ours, 'ours'), run(peer, 'peer')));
}

console.log('| work | ours | qemu-img | ratio |\n| --- | --- | --- | --- |');
for (const [format, options = ''] of kinds) {
  const name = [format, ...options.split(',').filter((word) => /^(subformat|static)=/.test(word))].join(' ');
  const image = `${dir}/image`;
  await bench(`raw->${name}`, (target) => writing(format, options, target));
  if (`${name}->raw`.includes(values.only)) {
    seconds([peer, ...writing(format, options, image)]);
    await bench(`${name}->raw`, (target) => reading(format, image, target));
    rmSync(image);
  }
}
rmSync(dir, { recursive: true, force: true });
