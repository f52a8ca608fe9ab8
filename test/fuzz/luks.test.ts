import { createHash } from 'node:crypto';
import { describe, it } from 'vitest';
import type { BlockDriver } from '../../src/block/driver.js';
import { BlockError } from '../../src/block/errors.js';
import { luks } from '../../src/format/luks/index.js';
import { qcow2 } from '../../src/format/qcow2/index.js';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { knownSecret, withSecret } from '../support/secret-driver.js';
import { fuzzCases, surviveHostile } from './hostile.js';

/** A header may ask for hours of key derivation, as the passphrase's owner may have wished: not looked into here. */
const patience = 20_000;

/** Opens with the secret where the header asks for little work, else for information only. */
function hostile(driver: BlockDriver, options: Record<string, unknown>): BlockDriver {
  const known = withSecret(driver);
  return {
    ...known,
    async open(context) {
      const given = { ...context, options: { ...context.options, ...options } };
      const looked = await known.open({ ...given, mode: { ...context.mode, noIo: true } });
      const data = JSON.stringify(looked.facet('formatInfo')?.specific());
      await looked.close();
      const work = [...data.matchAll(/"(?:iters|master-key-iters)":(\d+)/g)].map((match) => Number(match[1]));
      if (work.some((iterations) => iterations > patience)) throw new BlockError('NOT_SUPPORTED', 'too much work');
      return known.open(given);
    },
  };
}

async function seed(driver: BlockDriver, options: Record<string, string | number | boolean>): Promise<Uint8Array> {
  const known = withSecret(driver);
  const recording = new Recording();
  const graph = new BlockGraph({ drivers: new DriverRegistry([known, recorderDriver(recording)]) });
  const target = await graph.openBackend({ driver: 'recorder' });
  const none = (): Promise<never> => Promise.reject(new Error('not needed'));
  await known.create!(target, { size: 1 << 18, ...options }, {
    filename: 'seed', createFile: none, openBacking: none, object: () => undefined, warn: () => undefined,
    openTarget: async () => {
      await target.close();
      return graph.openBackend({ driver: driver.name, file: { driver: 'recorder' } });
    },
  });
  await graph.close();
  return recording.content.slice(0, recording.size);
}

/** Makes the checksum of the first copy right again. */
function mend(image: Uint8Array): void {
  if (image.length < 16 * 1024) return;
  const copy = image.subarray(0, 16 * 1024);
  copy.fill(0, 448, 512);
  copy.set(createHash('sha256').update(copy).digest(), 448);
}

describe('hostile encrypted images', () => {
  it('LUKS1 headers are survived', async () => {
    const image = await seed(luks, { 'key-secret': knownSecret, 'iter-time': 1 });
    await surviveHostile(hostile(luks, { 'key-secret': knownSecret }), image, Math.ceil(fuzzCases / 30), { headerBytes: 600 });
  }, 1_200_000);

  it('LUKS2 headers are survived', async () => {
    const image = await seed(luks, { 'key-secret': knownSecret, 'iter-time': 1, version: 2, kdf: 'pbkdf2' });
    await surviveHostile(hostile(luks, { 'key-secret': knownSecret }), image, Math.ceil(fuzzCases / 60), { headerBytes: 6000, mend });
  }, 1_200_000);

  it('LUKS inside qcow2 is survived', async () => {
    const image = await seed(qcow2, { 'encrypt.format': 'luks', 'encrypt.key-secret': knownSecret, 'encrypt.iter-time': 1 });
    const crypto = Number(new DataView(image.buffer).getBigUint64(120));
    await surviveHostile(hostile(qcow2, { encrypt: { 'key-secret': knownSecret } }), image, Math.ceil(fuzzCases / 30), {
      targets: [{ offset: 0, length: 160 }, { offset: crypto, length: 600 }],
    });
  }, 1_200_000);
});
