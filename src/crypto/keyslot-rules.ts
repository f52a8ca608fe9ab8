/** Which keyslots an amendment means, and whether it may: the same rules for both versions of LUKS, in the peer's words. */
import { BlockError, Errno } from '../block/errors.js';
import type { AmendKeys } from './luks-volume.js';

export interface KeyslotTable {
  /** Keyslots are numbered from 0. */
  readonly count: number;
  /** Holds the key of the data. */
  active(index: number): boolean;
  /** Can't be given to a new passphrase as it is. */
  taken(index: number): boolean;
  /** Whether the passphrase is the keyslot's. */
  opens(index: number, passphrase: Uint8Array): Promise<boolean>;
}

/** The one keyslot that gets the new passphrase, or those that are to be erased. */
export type KeyslotPlan =
  | { readonly fill: number; readonly passphrase: Uint8Array; readonly iterTime: number | undefined }
  | { readonly erase: readonly number[] };

/** @throws BlockError INVALID_ARGUMENT */
export async function planKeyslots(table: KeyslotTable, change: AmendKeys): Promise<KeyslotPlan> {
  const { state, keyslot, newPassphrase, oldPassphrase, iterTime, force } = change;
  if (state === 'active') {
    if (newPassphrase === undefined) throw invalid("'new-secret' is required to activate a keyslot");
    if (oldPassphrase !== undefined) throw invalid("'old-secret' must not be given when activating keyslots");
    return { fill: keyslotToFill(table, keyslot, force), passphrase: newPassphrase(), iterTime };
  }
  if (newPassphrase !== undefined) throw invalid("'new-secret' must not be given when erasing keyslots");
  if (iterTime !== undefined) throw invalid("'iter-time' must not be given when erasing keyslots");
  const old = oldPassphrase?.();
  return { erase: keyslot === undefined ? await keyslotsWith(table, old, force) : await keyslotToErase(table, keyslot, old, force) };
}

/** Fills a keyslot; a failure says which one. */
export async function fillKeyslot(keyslot: number, fill: () => Promise<void>): Promise<void> {
  try {
    await fill();
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new BlockError(error.code, error.message, { ...error.context, hint: `Failed to write to keyslot ${keyslot}` }, error);
  }
}

function keyslotToFill(table: KeyslotTable, keyslot: number | undefined, force: boolean): number {
  if (keyslot === undefined) {
    for (let index = 0; index < table.count; index++) if (!table.taken(index)) return index;
    throw invalid("Can't add a keyslot - all keyslots are in use");
  }
  checkNumber(table, keyslot, keyslot < 0 ? keyslot >>> 0 : keyslot);
  if (table.taken(keyslot) && !force) throw invalid(`Refusing to overwrite active keyslot ${keyslot} - please erase it first`);
  return keyslot;
}

async function keyslotToErase(table: KeyslotTable, keyslot: number, oldPassphrase: Uint8Array | undefined, force: boolean): Promise<number[]> {
  checkNumber(table, keyslot, keyslot);
  if (oldPassphrase !== undefined && !(table.active(keyslot) && (await table.opens(keyslot, oldPassphrase)))) {
    throw invalid(`Given keyslot ${keyslot} doesn't contain the given old password for erase operation`);
  }
  if (!force && !table.active(keyslot)) throw invalid(`Given keyslot ${keyslot} is already erased (inactive) `);
  if (!force && activeKeyslots(table).length === 1) {
    throw invalid(`Attempt to erase the only active keyslot ${keyslot} which will erase all the data in the image irreversibly - refusing operation`);
  }
  return [keyslot];
}

async function keyslotsWith(table: KeyslotTable, oldPassphrase: Uint8Array | undefined, force: boolean): Promise<number[]> {
  if (oldPassphrase === undefined) {
    throw invalid('To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given');
  }
  const active = activeKeyslots(table);
  const matching: number[] = [];
  for (const index of active) if (await table.opens(index, oldPassphrase)) matching.push(index);
  if (matching.length === 0) throw invalid('No keyslots match given (old) password for erase operation');
  if (!force && matching.length === active.length) {
    throw invalid('All the active keyslots match the (old) password that was given and erasing them will erase all the data in the image '
      + 'irreversibly - refusing operation');
  }
  return matching;
}

function activeKeyslots(table: KeyslotTable): number[] {
  return Array.from({ length: table.count }, (_, index) => index).filter((index) => table.active(index));
}

/** `shown`: as the peer prints the number. */
function checkNumber({ count }: KeyslotTable, keyslot: number, shown: number): void {
  if (keyslot < 0 || keyslot >= count) throw invalid(`Invalid keyslot ${shown} specified, must be between 0 and ${count - 1}`);
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: Errno.EINVAL });
}
