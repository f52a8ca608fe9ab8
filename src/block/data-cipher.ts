/** Encryption of guest data inside an image that keeps its tables in the clear. */

/**
 * Whole sectors of 512 bytes. `guest` is where the data is on the disk, `host` where it lies in the file that holds it: formats differ
 * in which of them the encryption depends on.
 */
export interface DataCipher {
  /** Returns memory of its own. */
  encrypt(guest: number, host: number, source: Uint8Array): Uint8Array;
  /** In place. */
  decrypt(guest: number, host: number, target: Uint8Array): void;
}
