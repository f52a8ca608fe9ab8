/** What formats see of an encrypted volume, whatever the version of its header. */
import type { OptionValue } from '../block/options.js';
import type { MaybePromise } from '../util/maybe.js';
import type { SectorCipher } from './sector-cipher.js';

/** Where a LUKS header with its key material lies: a file, or clusters of an image. Offsets from the header's start. */
export interface HeaderStore {
  readonly size: number;
  read(offset: number, target: Uint8Array): MaybePromise<void>;
  write(offset: number, source: Uint8Array): MaybePromise<void>;
  flush(): MaybePromise<void>;
}

/** Passphrases are asked for when their turn comes: that one cannot be found is the last thing to complain of. */
export interface AmendKeys {
  readonly state: 'active' | 'inactive';
  /** The passphrase that activated keyslots get. */
  readonly newPassphrase?: () => Uint8Array;
  /** Erase the keyslots with this passphrase. */
  readonly oldPassphrase?: () => Uint8Array;
  readonly keyslot?: number;
  /** Milliseconds. */
  readonly iterTime?: number;
  /** Do what may lose the data, too. */
  readonly force: boolean;
}

/** A volume that has been unlocked. */
export interface UnlockedVolume {
  readonly cipher: SectorCipher;
  /** Adds, changes or erases keyslots. @throws BlockError */
  amend(change: AmendKeys): Promise<void>;
}

export interface LuksVolume {
  /** Of the payload, in bytes from the start of the file that holds it. */
  readonly payloadOffset: number;
  /** Bytes of the payload; undefined: all that follows. */
  readonly payloadSize: number | undefined;
  /** Unit of encryption in bytes. */
  readonly sectorSize: number;
  /** QAPI's QCryptoBlockInfoLUKS, as far as the version goes. */
  info(): Readonly<Record<string, OptionValue>>;
  /** Undefined where the passphrase opens no keyslot. */
  unlock(passphrase: Uint8Array): Promise<UnlockedVolume | undefined>;
}
