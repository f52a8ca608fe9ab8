/** Names of VMDK disks and of the files they name that look like something else: QEMU and we see the same files. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import { createRegistry } from '../../src/drivers.js';
import { renameImage } from '../../src/image/files.js';
import { ToolFolder } from '../support/our-tools.js';
import { havePeers, oracleTool } from '../support/peers.js';

describe.skipIf(!havePeers('qemu-img', 'qemu-io'))('names of vmdk', () => {
  let folder: ToolFolder;
  beforeEach(() => { folder = new ToolFolder(); });
  afterEach(() => folder.remove());
  const peer = oracleTool('qemu-img') ?? 'qemu-img';
  const newGraph = (): BlockGraph => new BlockGraph({ drivers: createRegistry(), gate: () => true });

  function expectSame(image: string, raw: string): void {
    for (const program of [folder.tool('vdisk'), peer]) {
      expect(folder.succeed(program, ['compare', '-f', 'vmdk', '-F', 'raw', image, raw])).toBe('Images are identical.\n');
    }
  }

  describe('with a colon', () => {
    beforeEach(() => { writeFileSync(folder.file('s.raw'), Buffer.alloc(3 << 20, 'some content')); });

    it.each(['monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat', 'vmfsThin', 'vmfsSparse'])('%s is made as any other', (subformat) => {
      folder.succeed(folder.tool('vdisk'), ['convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, 's.raw', './co:l.vmdk']);
      expectSame('./co:l.vmdk', 's.raw');
      expect(readdirSync(folder.path).filter((name) => name.endsWith('.vmdk')).every((name) => name.startsWith('co:l'))).toBe(true);
    });

    it.each(['monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat'])('%s of QEMU is read', (subformat) => {
      folder.succeed(peer, ['convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, 's.raw', './co:q.vmdk']);
      expectSame('./co:q.vmdk', 's.raw');
    });

    it('is found behind the prefix of a protocol', () => {
      folder.succeed(folder.tool('vdisk'), ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=monolithicFlat', 's.raw', 'file:co:l.vmdk']);
      expectSame('file:co:l.vmdk', 's.raw');
      expect(existsSync(folder.file('co:l-flat.vmdk'))).toBe(true);
    });

    it('grows by files that are called alike, which are renamed with it', async () => {
      folder.succeed(folder.tool('vdisk'), ['create', '-f', 'vmdk', '-o', 'subformat=twoGbMaxExtentSparse', './co:l.vmdk', '2G']);
      folder.succeed(folder.tool('vdisk'), ['resize', './co:l.vmdk', '3G']);
      await using graph = newGraph();
      await renameImage(graph, folder.file('co:l.vmdk'), folder.file('n:w.vmdk'));
      expect(readdirSync(folder.path).filter((name) => name.endsWith('.vmdk')).sort()).toEqual(['n:w-s001.vmdk', 'n:w-s002.vmdk', 'n:w.vmdk']);
      folder.succeed(peer, ['check', '-f', 'vmdk', folder.file('n:w.vmdk')]);
    });
  });

  it.each(['monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse'])('with a line end none is made of kind %s, and nothing else either', (subformat) => {
    const before = readdirSync(folder.path);
    for (const name of ['./a\nparentCID=1.vmdk', './a\rb.vmdk']) {
      const { status, stderr } = folder.run(folder.tool('vdisk'), ['create', '-q', '-f', 'vmdk', '-o', `subformat=${subformat}`, name, '1M']);
      expect({ status, stderr }).toEqual({ status: 1, stderr: `vdisk: ${name}: The name of a VMDK disk cannot have line ends: its descriptor is made of lines\n` });
    }
    writeFileSync(folder.file('kept\n.vmdk'), 'kept');
    folder.run(folder.tool('vdisk'), ['create', '-q', '-f', 'vmdk', '-o', `subformat=${subformat}`, './kept\n.vmdk', '1M']);
    expect(readFileSync(folder.file('kept\n.vmdk'), 'utf8')).toBe('kept');
    expect(readdirSync(folder.path)).toEqual([...before, 'kept\n.vmdk'].sort());
  });

  it('is not renamed to one with a line end', async () => {
    folder.succeed(folder.tool('vdisk'), ['create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', 'd.vmdk', '1M']);
    const before = readdirSync(folder.path);
    await using graph = newGraph();
    await expect(renameImage(graph, folder.file('d.vmdk'), folder.file('a\nb.vmdk'))).rejects.toThrow('cannot have line ends');
    expect(readdirSync(folder.path)).toEqual(before);
  });

  it.each([['tab', '\t'], ['line separator of Unicode', '\u2028']])('with a %s QEMU and we read alike', (_, character) => {
    const name = `./a${character}b.vmdk`;
    folder.succeed(peer, ['create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', name, '1M']);
    for (const program of [peer, folder.tool('vdisk')]) expect(folder.succeed(program, ['info', name])).toContain(`a${character}b-flat.vmdk`);
  });

  it.each(['nbd:127.0.0.1:PORT', 'nbd://127.0.0.1:PORT/disk'])('an extent called %s is a file, not a server', async (name) => {
    let connections = 0;
    const server = createServer((socket) => { connections++; socket.destroy(); });
    await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
    const { port } = server.address() as { port: number };
    folder.succeed(peer, ['create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', 'd.vmdk', '1M']);
    const extent = name.replace('PORT', String(port));
    writeFileSync(folder.file('d.vmdk'), readFileSync(folder.file('d.vmdk'), 'utf8').replace('d-flat.vmdk', extent));
    await using graph = newGraph();
    await expect(graph.openBackend(folder.file('d.vmdk'), { driver: 'vmdk', readOnly: true })).rejects.toThrow(`${extent}': No such file`);
    expect(connections).toBe(0);
    server.close();
  });

  describe('with a backslash, a parent', () => {
    it('is the file of that name, not the one whose name follows the backslash', () => {
      for (const [name, pattern] of [['./back\\slash.img', '0x11'], ['slash.img', '0x22']] as const) {
        folder.succeed(peer, ['create', '-q', '-f', 'vmdk', name, '4M']);
        folder.succeed('qemu-io', ['-f', 'vmdk', '-c', `write -P ${pattern} 0 64k`, name]);
      }
      folder.succeed(peer, ['create', '-q', '-f', 'vmdk', '-b', './back\\slash.img', '-F', 'vmdk', 'child.vmdk']);
      for (const program of ['qemu-io', folder.tool('qemu-io')]) {
        expect(folder.succeed(program, ['-r', '-f', 'vmdk', '-c', 'read -P 0x11 0 64k', 'child.vmdk']), program).not.toContain('failed');
      }
    });

    it('is looked for by its last name where there is no such file', () => {
      folder.succeed(peer, ['create', '-q', '-f', 'vmdk', './a\\b.img', '4M']);
      folder.succeed(peer, ['create', '-q', '-f', 'vmdk', '-b', './a\\b.img', '-F', 'vmdk', 'child.vmdk']);
      folder.succeed('mv', ['a\\b.img', 'b.img']);
      expect(folder.succeed(folder.tool('qemu-io'), ['-r', '-f', 'vmdk', '-c', 'read -P 0 0 64k', 'child.vmdk'])).not.toContain('failed');
    });
  });
});
