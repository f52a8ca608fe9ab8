/** Power cuts while an overlay gets another backing file: whichever its header names, it shows what it showed. */
import { expect, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { qcow2 } from '../../src/format/qcow2/index.js';
import { raw } from '../../src/format/raw/index.js';
import { copyDifferences } from '../../src/image/rebase.js';
import { crashStates } from '../../src/testing/power-cut.js';
import { seededRandom } from '../../src/testing/random.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { testSeed } from '../support/seed.js';

const size = 1 << 20;
const clusterSize = 4096;
const states = 500;
const disk = (name: string, fill: number): ReturnType<typeof recorderDriver> => ({ ...recorderDriver(new Recording(new Uint8Array(size).fill(fill))), name });
const [former, later] = [disk('former', 0xee), disk('later', 0x11)];

function graphOf(recording: Recording): BlockGraph {
  return new BlockGraph({ drivers: new DriverRegistry([qcow2, raw, recorderDriver(recording), former, later]) });
}
const alone = { driver: 'qcow2', file: { driver: 'recorder' } };
const overlayOn = (backing: string): Record<string, unknown> & { driver: string } =>
  ({ ...alone, backing: { driver: 'raw', file: { driver: backing } } });

it(`${states} states of a rebased qcow2 image`, async () => {
  const recording = new Recording();
  const graph = graphOf(recording);
  const target = await graph.openBackend({ driver: 'recorder' });
  const none = (): Promise<never> => Promise.reject(new Error('not needed'));
  await qcow2.create!(target, { size, cluster_size: clusterSize }, { filename: 'overlay', createFile: none, openBacking: none, object: () => undefined, warn: () => undefined, openTarget: async () => {
    await target.close();
    return graph.openBackend(alone);
  } });
  const made = await graph.openBackend(alone);
  await made.node.facet('backing')!.change('former', 'raw');
  await made.close();
  const expected = new Uint8Array(size).fill(0xee).fill(0x77, size / 4, size / 2);
  const overlay = await graph.openBackend(overlayOn('former'));
  await overlay.write(size / 4, expected.subarray(size / 4, size / 2));
  await overlay.flush();
  recording.reset();
  recording.random = seededRandom(testSeed);
  const newBacking = await graph.openBackend({ driver: 'later' }, { readOnly: true });
  await copyDifferences(overlay, { newBacking, alignment: clusterSize });
  await overlay.node.facet('backing')!.change('later', 'raw');
  await newBacking.close();
  await overlay.close();

  const taken = crashStates(recording, seededRandom(testSeed + 1));
  let rebased = 0;
  for (let at = 0; at < states; at++) {
    const { image, description } = taken.next().value;
    const isRebased = Buffer.from(image.subarray(0, clusterSize)).includes('later');
    if (isRebased) rebased++;
    const cut = await graphOf(new Recording(image)).openBackend(overlayOn(isRebased ? 'later' : 'former'), { readOnly: true });
    const content = new Uint8Array(size);
    await cut.read(0, content);
    await cut.close();
    expect(Buffer.compare(content, expected), `${description}, rebased: ${isRebased}`).toBe(0);
  }
  expect(rebased).toBeGreaterThan(0);
  expect(rebased).toBeLessThan(states);
});
