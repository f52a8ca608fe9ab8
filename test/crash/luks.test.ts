/** Power cuts while keyslots change: the passphrase that stays opens every state, the one that comes or goes does so or not. */
import { describe, expect, it } from 'vitest';
import { createLuks1, openLuks1 } from '../../src/crypto/luks1.js';
import { createLuks2, openLuks2 } from '../../src/crypto/luks2.js';
import type { HeaderStore, LuksVolume } from '../../src/crypto/luks-volume.js';
import { crashStates } from '../../src/testing/power-cut.js';
import { seededRandom } from '../../src/testing/random.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import type { BlockBackend } from '../../src/block/child.js';
import { testSeed } from '../support/seed.js';

const states = Math.max(8, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 1000);
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const [stays, comes, goes] = [bytes('stays'), bytes('comes'), bytes('goes')];
const cipher = { keySize: 32, mode: 'xts', ivGenerator: 'plain64' } as const;

const versions: readonly { readonly name: string; make(passphrase: Uint8Array): Promise<Uint8Array>; open(store: HeaderStore): Promise<LuksVolume> }[] = [
  { name: 'LUKS1', make: (passphrase) => createLuks1({ cipher, hash: 'sha256', passphrase, iterTime: 1, detached: false }), open: (store) => openLuks1(store, false) },
  {
    name: 'LUKS2', open: (store) => openLuks2(store, false),
    make: (passphrase) => createLuks2({ cipher, hash: 'sha256', passphrase, iterTime: 1, detached: false, sectorSize: 512, kdf: 'pbkdf2' }),
  },
];

async function attach(recording: Recording): Promise<BlockBackend> {
  return new BlockGraph({ drivers: new DriverRegistry([recorderDriver(recording)]) }).openBackend({ driver: 'recorder' });
}

describe.each(versions)('$name after a power cut', ({ make, open }) => {
  it('opens with the passphrase that stays, and has no half of a keyslot', async () => {
    const recording = new Recording(await make(stays));
    const disk = await attach(recording);
    const first = (await (await open(disk)).unlock(stays))!;
    await first.amend({ state: 'active', newPassphrase: () => goes, iterTime: 1, force: false });
    recording.reset();
    recording.random = seededRandom(testSeed);
    const volume = (await (await open(disk)).unlock(stays))!;
    await volume.amend({ state: 'active', newPassphrase: () => comes, iterTime: 1, force: false });
    const added = recording.time;
    await volume.amend({ state: 'inactive', oldPassphrase: () => goes, force: false });
    const sector = new Uint8Array(512).fill(7);
    const expected = new Uint8Array(512);
    volume.cipher.encrypt(9, sector, expected);
    const random = seededRandom(testSeed + 4);
    const cuts = crashStates(recording, random);
    for (let taken = 0; taken < states; taken++) {
      const { image, time, description } = cuts.next().value;
      const found = await open(await attach(new Recording(image)));
      const unlocked = await found.unlock(stays);
      expect(unlocked, description).toBeDefined();
      const encrypted = new Uint8Array(512);
      unlocked!.cipher.encrypt(9, sector, encrypted);
      expect(encrypted, description).toEqual(expected);
      if (time >= added) expect(await found.unlock(comes), description).toBeDefined();
      if (time >= recording.time) expect(await found.unlock(goes), description).toBeUndefined();
    }
  }, 600_000);
});
