// VixDiskLib against QEMU: node bench/vixdisklib.mjs [--pairs N] [--only WORD] [--dir DIR] [--mib N] [--count REQUESTS]
//   Clone (the call, as programs stay) against `qemu-img convert` (the process) for the same pair of types, seconds, less is better, and
//   ReadAsync and WriteAsync at depth 32 against `qemu-img bench` (thousands of requests per second; more is better).
// The peer is $QEMU_IMG_PROG or qemu-img of the path; ours is dist/, from page cache.
import { randomFillSync } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { pairs, row, seconds } from './pairs.mjs';

const { values, positionals } = parseArgs({ allowPositionals: true, options: {
  pairs: { type: 'string', default: '7' }, only: { type: 'string', default: '' }, dir: { type: 'string', default: '/dev/shm' },
  mib: { type: 'string', default: '512' }, count: { type: 'string', default: '400000' },
} });
const DEPTH = 32;
const SECTOR = 512;

/** Types by number with the names that qemu-img has for them. */
const types = { 1: 'monolithicSparse', 2: 'monolithicFlat', 3: 'twoGbMaxExtentSparse', 6: 'streamOptimized' };
const self = fileURLToPath(import.meta.url);
if (positionals[0] === 'clone') await clone(...positionals.slice(1));
else if (positionals[0] === 'requests') await requests(...positionals.slice(1));
else await compare();

/** Run as a process of its own: prints the seconds that the call took. */
async function clone(from, to, diskType) {
  const { DiskLib } = await import('vdisk/vixdisklib');
  const lib = await DiskLib.init();
  const host = await lib.connect();
  const start = process.hrtime.bigint();
  await host.clone(to, host, from, { createParams: { diskType: Number(diskType) } });
  console.log(Number(process.hrtime.bigint() - start) / 1e9);
  await lib.close();
}

/** Run as a process of its own: prints the seconds that the requests took. */
async function requests(verb, path, sectors, count) {
  const vix = await import('vdisk/vixdisklib');
  await vix.VixDiskLib_InitEx(7, 0, null, null, null);
  const connection = await vix.VixDiskLib_Connect(null);
  const handle = await vix.VixDiskLib_Open(connection, path, verb === 'read' ? vix.OpenFlags.READ_ONLY : 0);
  const call = verb === 'read' ? vix.VixDiskLib_ReadAsync : vix.VixDiskLib_WriteAsync;
  const [size, total] = [Number(sectors), Number(count)];
  const places = Math.floor(handle.capacity / size);
  let sent = 0;
  const start = process.hrtime.bigint();
  const next = (buffer, result) => {
    if (result !== 0) throw new Error(vix.VixDiskLib_GetErrorText(result));
    if (sent < total) call(handle, (sent++ % places) * size, size, buffer, next, buffer);
  };
  for (let i = 0; i < DEPTH; i++) next(new Uint8Array(size * SECTOR), 0);
  await vix.VixDiskLib_Wait(handle);
  console.log(Number(process.hrtime.bigint() - start) / 1e9);
  await vix.VixDiskLib_Exit();
}

async function compare() {
  const peer = process.env.QEMU_IMG_PROG ?? 'qemu-img';
  const dir = `${values.dir}/vdisk-bench-vix`;
  const n = Number(values.pairs);
  mkdirSync(dir, { recursive: true });
  const raw = `${dir}/source.raw`;
  if (!existsSync(raw)) await fill(raw, Number(values.mib));
  const removeOutput = (who) => { for (const name of readdirSync(dir)) if (name.startsWith(`out-${who}`)) rmSync(`${dir}/${name}`); };
  const wanted = (name) => name.includes(values.only);
  console.log('| what | ours | qemu-img | ours/qemu-img, median [range] |\n| --- | --- | --- | --- |');
  const source = (type) => `${dir}/source-${type}.vmdk`;
  for (const [from, to] of [[1, 1], [1, 2], [2, 1], [1, 3], [1, 6], [6, 1]]) {
    const name = `Clone ${types[from]} to ${types[to]}`;
    if (!wanted(name)) continue;
    if (!existsSync(source(from))) seconds([peer, 'convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${types[from]}`, raw, source(from)]);
    const ours = () => { removeOutput('ours'); return Number(output([process.execPath, self, 'clone', source(from), `${dir}/out-ours.vmdk`, String(to)])); };
    const theirs = () => { removeOutput('peer'); return seconds([peer, 'convert', '-f', 'vmdk', '-O', 'vmdk', '-o', `subformat=${types[to]}`, source(from), `${dir}/out-peer.vmdk`]); };
    row(name, 's', await pairs(n, ours, theirs));
    seconds([peer, 'compare', '-f', 'vmdk', '-F', 'vmdk', `${dir}/out-ours.vmdk`, `${dir}/out-peer.vmdk`]);
    for (const who of ['ours', 'peer']) removeOutput(who);
  }
  for (const verb of ['read', 'write']) for (const [sectors, text] of [[8, '4 KiB'], [128, '64 KiB']]) {
    const name = `${verb === 'read' ? 'ReadAsync' : 'WriteAsync'} ${text}, depth ${DEPTH}`;
    if (!wanted(name)) continue;
    const count = Math.floor(Number(values.count) / (sectors === 8 ? 1 : 8));
    const disks = ['ours', 'peer'].map((who) => `${dir}/requests-${who}.vmdk`);
    for (const disk of disks) seconds([peer, 'convert', '-f', 'raw', '-O', 'vmdk', raw, disk]);
    const rate = (text) => count / 1000 / Number(text);
    const ours = () => rate(output([process.execPath, self, 'requests', verb, disks[0], String(sectors), String(count)]));
    const theirs = () => rate(/in ([\d.]+) seconds/.exec(output([peer, 'bench', '-f', 'vmdk', '-c', String(count), '-d', String(DEPTH), '-s', String(sectors * SECTOR), ...(verb === 'write' ? ['-w'] : []), disks[1]]))[1]);
    row(name, 'k/s', await pairs(n, ours, theirs), 1);
  }
  rmSync(dir, { recursive: true });
}

function output(command) {
  const { status, stdout, stderr } = spawnSync(command[0], command.slice(1), { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command.join(' ')}: ${stderr}`);
  return stdout;
}

/** Half of it compresses. */
async function fill(path, mebibytes) {
  const { open } = await import('node:fs/promises');
  const file = await open(path, 'w');
  for (let i = 0; i < mebibytes; i++) {
    const piece = Buffer.alloc(1 << 20, `line ${i} of a text that says the same again and again, `);
    await file.write(i % 2 ? randomFillSync(piece) : piece);
  }
  await file.close();
}
