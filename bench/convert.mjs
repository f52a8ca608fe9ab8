// qemu-img against ours: node bench/convert.mjs [--pairs N] [--only WORD] [--dir DIR] [--mib N]
// The peer is $QEMU_IMG_PROG or qemu-img of the path; ours is bin/qemu-img. Data in DIR (default /dev/shm), from page cache.
import { closeSync, existsSync, mkdirSync, openSync, rmSync, writeSync, ftruncateSync } from 'node:fs';
import { randomFillSync } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { pairs, row, seconds } from './pairs.mjs';

const { values } = parseArgs({ options: { pairs: { type: 'string', default: '7' }, only: { type: 'string', default: '' }, dir: { type: 'string', default: '/dev/shm' }, mib: { type: 'string', default: '1024' } } });
const ours = fileURLToPath(new URL('../bin/qemu-img', import.meta.url));
const peer = process.env.QEMU_IMG_PROG ?? 'qemu-img';
const dir = `${values.dir}/vdisk-bench`;
mkdirSync(dir, { recursive: true });

const MiB = 1 << 20;
const words = 'the quick brown disk jumps over lazy clusters while sectors sleep below '.split(' ');
/** One MiB that compresses like text, like binaries, or not at all. */
function piece(kind, at) {
  const buffer = Buffer.alloc(MiB);
  if (kind === 'random') return randomFillSync(buffer);
  if (kind === 'text') {
    let place = 0;
    let state = at * 7919 + 1;
    while (place < MiB) {
      state = (state * 1103515245 + 12345) & 0x7fffffff;
      place += buffer.write(`${words[state % words.length]}${state % 97 === 0 ? state : ''} `, place);
    }
    return buffer;
  }
  const part = randomFillSync(Buffer.alloc(MiB / 4));
  for (let i = 0; i < 4; i++) part.copy(buffer, i * (MiB / 4), 0, MiB / 8 + i * 1000);
  return buffer;
}
function make(name, mebibytes, sparse) {
  const path = `${dir}/${name}`;
  if (existsSync(path)) return path;
  const fd = openSync(path, 'w');
  for (let i = 0; i < mebibytes; i++) {
    const kind = i % 4 < 2 ? 'text' : i % 4 === 2 ? 'binary' : 'random';
    writeSync(fd, piece(kind, i), 0, MiB, (sparse ? i * 8 : i) * MiB);
  }
  if (sparse) ftruncateSync(fd, mebibytes * 8 * MiB);
  closeSync(fd);
  return path;
}
function zeroes(name, mebibytes) {
  const path = `${dir}/${name}`;
  const fd = openSync(path, 'w');
  for (let i = 0; i < mebibytes; i++) writeSync(fd, Buffer.alloc(MiB), 0, MiB, i * MiB);
  closeSync(fd);
  return path;
}

const n = Number(values.pairs);
const wanted = (name) => name.includes(values.only);
async function bench(name, args, peerArgs = args, count = n) {
  if (!wanted(name)) return;
  const target = (who) => `${dir}/out-${who}`;
  const run = (program, who, list) => async () => {
    rmSync(target(who), { force: true });
    const time = seconds([program, ...list.map((arg) => (arg === 'OUT' ? target(who) : arg))]);
    rmSync(target(who), { force: true });
    return time;
  };
  row(name, 's', await pairs(count, run(ours, 'ours', args), run(peer, 'peer', peerArgs)));
}

console.log('| work | ours | qemu-img | ratio |\n| --- | --- | --- | --- |');
const dense = make('dense.raw', Number(values.mib), false);
const sparse = make('sparse.raw', Number(values.mib), true);
const small = make('small.raw', 256, false);
const zero = zeroes('zero.raw', 1024);
const tiny = make('tiny.raw', 1, false);
const made = (name, args) => {
  const path = `${dir}/${name}`;
  if (!existsSync(path)) seconds([peer, 'convert', ...args, path]);
  return path;
};
const denseQ = made('dense.qcow2', ['-O', 'qcow2', dense]);
const sparseQ = made('sparse.qcow2', ['-O', 'qcow2', sparse]);
const zlibQ = made('zlib.qcow2', ['-c', '-O', 'qcow2', small]);
const zstdQ = made('zstd.qcow2', ['-c', '-O', 'qcow2', '-o', 'compression_type=zstd', small]);

await bench('raw->qcow2 dense', ['convert', '-f', 'raw', '-O', 'qcow2', dense, 'OUT']);
await bench('raw->qcow2 sparse', ['convert', '-f', 'raw', '-O', 'qcow2', sparse, 'OUT']);
await bench('qcow2->raw dense', ['convert', '-f', 'qcow2', '-O', 'raw', denseQ, 'OUT']);
await bench('qcow2->raw sparse', ['convert', '-f', 'qcow2', '-O', 'raw', sparseQ, 'OUT']);
await bench('raw->raw dense', ['convert', '-f', 'raw', '-O', 'raw', dense, 'OUT']);
await bench('qcow2->qcow2 dense', ['convert', '-f', 'qcow2', '-O', 'qcow2', denseQ, 'OUT']);
await bench('raw->qcow2 all zero 1 GiB', ['convert', '-f', 'raw', '-O', 'qcow2', zero, 'OUT']);
await bench('raw->qcow2 tiny 1 MiB', ['convert', '-f', 'raw', '-O', 'qcow2', tiny, 'OUT']);
const few = Math.max(3, n >> 1);
await bench('raw->qcow2 -c zlib, peer default', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', small, 'OUT'], undefined, few);
await bench('raw->qcow2 -c zlib, peer -m 16 -W', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', small, 'OUT'], ['convert', '-m', '16', '-W', '-c', '-f', 'raw', '-O', 'qcow2', small, 'OUT'], few);
const zstd = ['-O', 'qcow2', '-o', 'compression_type=zstd', small, 'OUT'];
await bench('raw->qcow2 -c zstd, peer default', ['convert', '-c', '-f', 'raw', ...zstd], undefined, few);
await bench('raw->qcow2 -c zstd, peer -m 16 -W', ['convert', '-c', '-f', 'raw', ...zstd], ['convert', '-m', '16', '-W', '-c', '-f', 'raw', ...zstd], few);
await bench('qcow2 zlib->raw', ['convert', '-f', 'qcow2', '-O', 'raw', zlibQ, 'OUT'], undefined, few);
await bench('qcow2 zstd->raw', ['convert', '-f', 'qcow2', '-O', 'raw', zstdQ, 'OUT'], undefined, few);
await bench('compare raw=qcow2', ['compare', '-f', 'raw', '-F', 'qcow2', dense, denseQ]);
await bench('map qcow2 dense', ['map', '--output=json', '-f', 'qcow2', denseQ]);
await bench('map raw sparse', ['map', '--output=json', '-f', 'raw', sparse]);
await bench('info qcow2', ['info', denseQ]);
await bench('check qcow2', ['check', '-f', 'qcow2', denseQ]);
if (wanted('info')) {
  row('info against node -e 0', 's', await pairs(n, async () => seconds([ours, 'info', denseQ]), async () => seconds([process.execPath, '-e', '0'])));
}
rmSync(dir, { recursive: true, force: true });
