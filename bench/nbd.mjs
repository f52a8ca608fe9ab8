// NBD servers under fio: node bench/nbd.mjs [--pairs N] [--only WORD] [--dir DIR] [--seconds S] [--format raw|qcow2]
// Ours (bin/qemu-nbd) against qemu-nbd ($QEMU_NBD_PROG or the path's) and, for raw, nbdkit file; fresh servers on unix sockets, 1 GiB from page cache.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { pairs, row, seconds } from './pairs.mjs';

const { values } = parseArgs({ options: {
  pairs: { type: 'string', default: '5' }, only: { type: 'string', default: '' }, dir: { type: 'string', default: '/dev/shm' },
  seconds: { type: 'string', default: '3' }, format: { type: 'string', default: 'raw' },
} });
const oursProgram = fileURLToPath(new URL('../bin/qemu-nbd', import.meta.url));
const peerProgram = process.env.QEMU_NBD_PROG ?? 'qemu-nbd';
const imgProgram = process.env.QEMU_IMG_PROG ?? 'qemu-img';
const dir = `${values.dir}/vdisk-bench-nbd`;
mkdirSync(dir, { recursive: true });
const raw = `${dir}/disk.raw`;
seconds(['dd', 'if=/dev/urandom', `of=${raw}`, 'bs=1M', 'count=1024']);
let disk = raw;
if (values.format === 'qcow2') {
  disk = `${dir}/disk.qcow2`;
  seconds([imgProgram, 'convert', '-f', 'raw', '-O', 'qcow2', raw, disk]);
}

const loads = [
  ['4K randread qd1', { rw: 'randread', bs: '4k', iodepth: 1 }],
  ['4K randread qd32', { rw: 'randread', bs: '4k', iodepth: 32 }],
  ['4K randread 4x16', { rw: 'randread', bs: '4k', iodepth: 16, numjobs: 4 }],
  ['4K randwrite qd1', { rw: 'randwrite', bs: '4k', iodepth: 1 }],
  ['4K randwrite qd32', { rw: 'randwrite', bs: '4k', iodepth: 32 }],
  ['4K randwrite 4x16', { rw: 'randwrite', bs: '4k', iodepth: 16, numjobs: 4 }],
  ['64K randread qd16', { rw: 'randread', bs: '64k', iodepth: 16 }],
  ['1M seqread qd8', { rw: 'read', bs: '1m', iodepth: 8 }],
  ['1M seqwrite qd8', { rw: 'write', bs: '1m', iodepth: 8 }],
];
const servers = {
  ours: (socket) => [oursProgram, '-t', '-e', '8', '-f', values.format, '-k', socket, disk],
  'qemu-nbd': (socket) => [peerProgram, '-t', '-e', '8', '-f', values.format, '-k', socket, disk],
  nbdkit: (socket) => ['nbdkit', '-f', '-U', socket, 'file', disk],
};

/** One fresh server under one load; MiB/s for 1M loads, else thousands of operations per second. */
async function sample(server, load) {
  const socket = `${dir}/${server}.sock`;
  rmSync(socket, { force: true });
  const [program, ...args] = servers[server](socket);
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  for (let i = 0; !existsSync(socket); i++) {
    if (i > 500) throw new Error(`${server} does not listen`);
    await sleep(10);
  }
  const fio = spawnSync('fio', ['--name=load', '--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`, '--time_based', `--runtime=${values.seconds}`,
    '--ramp_time=0.5', '--group_reporting', '--output-format=json', ...Object.entries(load).map(([key, value]) => `--${key}=${value}`)], { encoding: 'utf8' });
  child.kill('SIGTERM');
  await new Promise((resolve) => child.once('exit', resolve));
  if (fio.status !== 0) throw new Error(`fio: ${fio.stdout}${fio.stderr}`);
  const job = JSON.parse(fio.stdout.slice(fio.stdout.indexOf('{'))).jobs[0];
  const side = load.rw.includes('read') ? job.read : job.write;
  return load.bs === '1m' ? side.bw / 1024 : side.iops / 1000;
}

console.log(`${values.format} export, above 1 is better\n| load | ours | peer | ratio |\n| --- | --- | --- | --- |`);
for (const [name, load] of loads) {
  if (!name.includes(values.only)) continue;
  const unit = load.bs === '1m' ? 'MiB/s' : 'kop/s';
  for (const peer of values.format === 'raw' ? ['qemu-nbd', 'nbdkit'] : ['qemu-nbd']) {
    row(`${name} / ${peer}`, unit, await pairs(Number(values.pairs), () => sample('ours', load), () => sample(peer, load)), 1);
  }
}
rmSync(dir, { recursive: true, force: true });
