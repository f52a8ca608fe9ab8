import { describe, expect, it } from 'vitest';
import { Perm } from '../../block/driver.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { chainStatus } from '../../block/status.js';
import { qcow2 } from '../../format/qcow2/index.js';
import { raw } from '../../format/raw/index.js';
import { memory } from '../../protocol/memory/index.js';
import { compress } from './index.js';

const cluster = 65536;
const size = 10 * cluster + 512;
const graphOf = (): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([memory, raw, qcow2, compress]), gate: () => true });

async function compressed(graph: BlockGraph): ReturnType<BlockGraph['openBackend']> {
  const keeper = await graph.openBackend({ driver: 'memory', 'node-name': 'file' }, { take: 0 });
  const target = graph.attach(keeper.node, { take: Perm.ALL, share: Perm.ALL });
  await qcow2.create!(target, { size }, {
    filename: 'memory', createFile: () => Promise.reject(new Error('no file')), openBacking: () => Promise.reject(new Error('no backing')),
    object: () => undefined, warn: () => undefined,
    openTarget: async () => {
      await target.close();
      return graph.openBackend({ driver: 'qcow2', file: 'file' });
    },
  });
  return graph.openBackend({ driver: 'compress', file: { driver: 'qcow2', file: 'file' } });
}

describe('compress', () => {
  it('stores what is written compressed, in whole clusters, up to the end of the disk', async () => {
    await using graph = graphOf();
    const disk = await compressed(graph);
    await disk.write(100, new Uint8Array(cluster + 5).fill(7));
    await disk.write(size - 5, new Uint8Array(5).fill(9));
    const image = disk.node.children.get('file')!.node;
    for (const [offset, expected] of [[0, true], [cluster, true], [2 * cluster, false], [10 * cluster, true]] as const) {
      expect((await chainStatus(image, offset, 512)).compressed).toBe(expected);
    }
    const seen = new Uint8Array(size);
    await disk.read(0, seen);
    expect([seen.indexOf(7), seen.lastIndexOf(7), seen.indexOf(9), seen.lastIndexOf(9)]).toEqual([100, cluster + 104, size - 5, size - 1]);
  });

  it('cannot store a cluster compressed twice', async () => {
    await using graph = graphOf();
    const disk = await compressed(graph);
    await disk.write(0, new Uint8Array(10).fill(7));
    await expect(Promise.resolve().then(() => disk.write(0, new Uint8Array(10).fill(8)))).rejects.toThrow('Input/output error');
  });

  it('shows the sizes of the format below, but nothing of its file', async () => {
    await using graph = graphOf();
    const disk = await compressed(graph);
    expect(disk.facet('formatInfo')).toMatchObject({ clusterSize: cluster });
    expect(disk.facet('formatInfo')!.specific()).toBeUndefined();
    expect([disk.facet('check'), disk.facet('bitmaps'), disk.facet('backing')]).toEqual([undefined, undefined, undefined]);
    expect(disk.facet('snapshots')).toBeDefined();
  });

  it('needs a format that can', async () => {
    await using graph = graphOf();
    await expect(graph.open({ driver: 'compress', file: { driver: 'raw', file: { driver: 'memory', size } } }))
      .rejects.toThrow('Compression is not supported for underlying format: raw');
  });
});
