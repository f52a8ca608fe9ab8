import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { memory } from '../../protocol/memory/index.js';
import { blkdebug } from '../blkdebug/index.js';
import { conformanceCases } from '../../testing/conformance.js';
import { blkverify } from './index.js';

const size = 1 << 20;
const graphOf = (): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([memory, blkdebug, blkverify]), gate: () => true });

describe('blkverify in conformance', () => {
  for (const { name, run } of conformanceCases({
    drivers: [memory, blkverify], size, fresh: (wrap) => Promise.resolve({ driver: 'blkverify', test: wrap({ driver: 'memory', size }), raw: wrap({ driver: 'memory', size }) }),
  })) it(name, run);
});

describe('blkverify', () => {
  it('writes to both and names the first byte that differs', async () => {
    await using graph = graphOf();
    const copy = await graph.open({ driver: 'memory', size, 'node-name': 'copy' });
    const behind = graph.attach(copy, { take: 2, share: 15 });
    await behind.write(4100, new Uint8Array([9]));
    await behind.close();
    const disk = await graph.openBackend({ driver: 'blkverify', test: { driver: 'memory', size }, raw: 'copy' });
    await disk.write(8192, new Uint8Array(512).fill(3));
    await disk.read(4608, new Uint8Array(8192));
    expect(() => disk.read(4096, new Uint8Array(512))).toThrow('blkverify: read offset=4096 bytes=512 contents mismatch at offset 4100');
  });

  it('wants both to end alike', async () => {
    await using graph = graphOf();
    const failing = { driver: 'blkdebug', image: { driver: 'memory', size }, 'inject-error': [{ event: 'none', iotype: 'write', errno: 28 }] };
    const disk = await graph.openBackend({ driver: 'blkverify', test: { driver: 'memory', size }, raw: failing });
    await expect((async () => disk.write(0, new Uint8Array(512)))()).rejects.toThrow('blkverify: write offset=0 bytes=512 return value mismatch 0 != -28');
    const both = await graph.openBackend({ driver: 'blkverify', test: failing, raw: failing });
    await expect((async () => both.write(0, new Uint8Array(512)))()).rejects.toThrow('No space left on device');
  });

  it('takes its filename apart', () => {
    expect(blkverify.parseFilename!('blkverify:a.raw:b.qcow2')).toEqual({ raw: { filename: 'a.raw' }, test: { file: { filename: 'b.qcow2' } } });
    expect(() => blkverify.parseFilename!('blkverify:a.raw')).toThrow('blkverify requires raw copy and original image path');
  });
});
