/** Two writers on one image: the second is refused before it changes anything, and told who is in the way. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Perm } from '../../src/block/driver.js';
import { BlockGraph } from '../../src/block/graph.js';
import { createRegistry } from '../../src/drivers.js';
import { native } from '../../src/platform/native.js';
import { ToolFolder, until, type Running } from '../support/our-tools.js';
import { havePeers, oracleTool } from '../support/peers.js';

if (native() === undefined) console.warn('!!! The native helper is not there: no file locks. The tests of two writers are NOT run.');
const newest = oracleTool('qemu-io')?.replace(/\/qemu-io$/, '');
const peers = { ...(havePeers('qemu-io') && { 'QEMU 7.2': '/usr/bin' }), ...(newest !== undefined && { 'QEMU 10': newest }) };

describe.skipIf(native() === undefined)('two writers', () => {
  let folder: ToolFolder;
  let image: string;
  const toolSets: Record<string, () => string> = { us: () => folder.file('.tools/bin') };
  for (const [name, path] of Object.entries(peers)) toolSets[name] = () => path;
  const pairs = Object.keys(toolSets).flatMap((holder) => Object.keys(toolSets).map((second) => [holder, second] as const))
    .filter((pair) => pair.includes('us'));

  beforeAll(() => {
    folder = new ToolFolder();
    image = folder.file('image.qcow2');
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', 'qcow2', image, '4M']);
    writeFileSync(folder.file('other.raw'), new Uint8Array(1 << 20));
  });
  afterAll(() => folder.remove());

  /** A qemu-io that has the image open for writing until it is told to quit. */
  async function hold(tools: string): Promise<Running> {
    const holder = folder.start(`${tools}/qemu-io`, ['-f', 'qcow2', image]);
    holder.child.stdin!.write('write -P 7 0 64k\n');
    await until(() => holder.output.stdout.includes('wrote 65536/65536') || holder.child.exitCode !== null, 'qemu-io');
    return holder;
  }

  it.each(pairs)('%s first, then %s', async (first, second) => {
    const holder = await hold(toolSets[first]!());
    const tools = toolSets[second]!();
    const before = readFileSync(image);
    const refused = /^qemu-(img|io): (can't open device .*|Could not open '.*'): Failed to get (shared )?"(write|consistent read)" lock\nIs another process using the image \[.*image\.qcow2\]\?\n$/;
    for (const [tool, ...parameters] of [
      ['qemu-io', '-f', 'qcow2', '-c', 'write -P 8 0 64k', image], ['qemu-img', 'resize', '-f', 'qcow2', image, '+1M'],
      ['qemu-img', 'snapshot', '-c', 's', image], ['qemu-img', 'check', '-f', 'qcow2', image], ['qemu-img', 'info', '-f', 'qcow2', image],
      ['qemu-img', 'convert', '-f', 'qcow2', image, folder.file('copy.raw')], ['qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'qcow2', folder.file('other.raw'), image],
    ] as const) {
      const { status, stderr } = folder.run(`${tools}/${tool}`, parameters);
      expect([status, stderr], parameters.join(' ')).toEqual([1, expect.stringMatching(refused)]);
    }
    const created = folder.run(`${tools}/qemu-img`, ['create', '-q', '-f', 'qcow2', image, '8M']);
    expect([created.status, created.stderr]).toEqual([1, expect.stringContaining('Is another process using the image')]);
    expect(readFileSync(image).equals(before), 'unchanged by the refused').toBe(true);
    expect(folder.run(`${tools}/qemu-img`, ['info', '-U', '-f', 'qcow2', image])).toMatchObject({ status: 0 });

    holder.child.stdin!.end('read -P 7 0 64k\nquit\n');
    expect(await holder.ended).toMatchObject({ status: 0 });
    expect(folder.run(`${tools}/qemu-io`, ['-f', 'qcow2', '-c', 'read -P 7 0 64k', image])).toMatchObject({ status: 0 });
  });

  it.each(Object.keys(toolSets))('vdisk says who it is: %s', async (first) => {
    const holder = await hold(toolSets[first]!());
    // ours is a program run by Node
    const name = `process ${holder.child.pid} (${readFileSync(`/proc/${holder.child.pid}/comm`, 'utf8').trim()})`;
    for (const parameters of [['resize', '-f', 'qcow2', image, '+1M'], ['nbd', '--writable', '-f', 'qcow2', '--socket', folder.file('socket'), image]]) {
      const { status, stderr } = folder.run(folder.tool('vdisk'), parameters);
      expect([status, stderr.split('\n').slice(1)]).toEqual([1, [`Is another process using the image [${image}]?`, `It is held by ${name}.`, '']]);
    }
    const server = folder.start(folder.tool('vdisk'), ['serve', '--writable', '--socket', folder.file('socket'), folder.path]);
    await until(() => server.output.stdout.includes('Ctrl-C stops') || server.child.exitCode !== null, 'vdisk serve');
    expect(server.output.stdout).toContain(`  image.qcow2  cannot be served: Failed to get "write" lock, held by ${name}\n`);
    server.child.kill('SIGINT');
    await server.ended;
    holder.child.stdin!.end('quit\n');
    await holder.ended;
  });

  it('in one program, a user of the same node is named', async () => {
    const graph = new BlockGraph({ drivers: createRegistry() });
    try {
      const first = await graph.openBackend(image, { driver: 'qcow2', name: 'the first user', share: Perm.CONSISTENT_READ });
      expect(() => graph.attach(first.node, { name: 'the second user', take: Perm.WRITE, share: Perm.ALL })).toThrow(/'write' are both required by block device 'the second user' .*unshared by block device 'the first user'/);
      await expect(graph.openBackend(image, { driver: 'qcow2' })).rejects.toMatchObject({ message: expect.stringContaining('Failed to get "write" lock') as string });
    } finally {
      await graph.close();
    }
  });

  it('a killed writer holds nothing', async () => {
    const holder = await hold(folder.file('.tools/bin'));
    holder.child.kill('SIGKILL');
    await holder.ended;
    expect(folder.run(folder.tool('qemu-io'), ['-f', 'qcow2', '-c', 'write 0 64k', image])).toMatchObject({ status: 0 });
  });
});
