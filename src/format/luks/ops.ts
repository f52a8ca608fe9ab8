/** The open layer: the payload behind the header, decrypted. */
import type { BlockChild } from '../../block/child.js';
import {
  Req, unlimited, type BlockLimits, type Capabilities, type LayerExtent, type ResizeOptions,
} from '../../block/driver.js';
import { BlockOps } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import type { AmendFacet, Facets } from '../../block/facets.js';
import { amendOptions } from '../../crypto/luks.js';
import type { LuksVolume, UnlockedVolume } from '../../crypto/luks-volume.js';
import { sectorUnit, type SectorCipher } from '../../crypto/sector-cipher.js';
import type { FindObject } from '../../platform/secrets.js';
import { isPromise, type MaybePromise } from '../../util/maybe.js';

/** Longest request: what is written is encrypted into memory of its own. */
const maxTransfer = 4 * 1024 * 1024;
/** Buffers kept for the next writes. */
const spares = 8;

export class LuksOps extends BlockOps {
  override readonly limits: BlockLimits;
  #below: Capabilities | undefined;
  #capabilities!: Capabilities;
  readonly #file: BlockChild;
  readonly #volume: LuksVolume;
  readonly #unlocked: UnlockedVolume | undefined;
  readonly #cipher: SectorCipher | undefined;
  readonly #find: FindObject;
  readonly #free: Uint8Array[] = [];

  /** Without `unlocked` there is nothing but information. */
  constructor(file: BlockChild, volume: LuksVolume, unlocked: UnlockedVolume | undefined, find: FindObject) {
    super();
    this.#file = file;
    this.#volume = volume;
    this.#unlocked = unlocked;
    this.#cipher = unlocked?.cipher;
    this.#find = find;
    this.limits = { ...unlimited, requestAlignment: volume.sectorSize, maxTransfer };
  }

  /** Follows the file, whose abilities change when it is reopened. */
  get capabilities(): Capabilities {
    const below = this.#file.node.ops.capabilities;
    if (below !== this.#below) {
      this.#below = below;
      this.#capabilities = {
        write: below.write, writeFlags: below.writeFlags & Req.FUA, zeroFlags: undefined, discard: false,
        resize: this.#volume.payloadSize === undefined ? below.resize : 'none', growsOnWrite: false, growsNoise: true,
      };
    }
    return this.#capabilities;
  }

  get size(): number {
    const { payloadOffset, payloadSize, sectorSize } = this.#volume;
    const rest = Math.max(0, this.#file.size - payloadOffset);
    return payloadSize ?? rest - (rest % sectorSize);
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    const done = this.#file.read(this.#volume.payloadOffset + offset, target);
    return isPromise(done) ? done.then(() => this.#decrypt(offset, target)) : this.#decrypt(offset, target);
  }

  #decrypt(offset: number, target: Uint8Array): void {
    this.#cipher!.decrypt(offset / sectorUnit, target, target);
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    const memory = this.#free.pop();
    const buffer = memory !== undefined && memory.length >= source.length ? memory : new Uint8Array(source.length);
    const encrypted = buffer.subarray(0, source.length);
    this.#cipher!.encrypt(offset / sectorUnit, source, encrypted);
    const done = this.#file.write(this.#volume.payloadOffset + offset, encrypted, flags);
    if (isPromise(done)) return done.then(() => this.#keep(buffer));
    this.#keep(buffer);
    return undefined;
  }

  #keep(buffer: Uint8Array): void {
    if (this.#free.length < spares) this.#free.push(buffer);
  }

  override flush(): MaybePromise<void> {
    return this.#file.flush();
  }

  status(_offset: number, length: number): LayerExtent {
    return { kind: 'data', length };
  }

  override resize(size: number, options: ResizeOptions): Promise<void> {
    const { payloadOffset } = this.#volume;
    if (size > Number.MAX_SAFE_INTEGER - payloadOffset) {
      return Promise.reject(new BlockError('INVALID_ARGUMENT', 'The requested file size is too large', { errno: Errno.EFBIG }));
    }
    return this.#resize(size, options);
  }

  async #resize(size: number, options: ResizeOptions): Promise<void> {
    const from = this.size;
    const { payloadOffset, sectorSize } = this.#volume;
    await this.#file.resize(payloadOffset + Math.ceil(size / sectorSize) * sectorSize, { ...options, zeroNew: false });
    if (!options.zeroNew) return;
    const zeroes = new Uint8Array(Math.min(maxTransfer, Math.max(0, size - from)));
    for (let at = from; at < this.size; at += zeroes.length) {
      await this.write(at, zeroes.subarray(0, Math.min(zeroes.length, this.size - at)), 0);
    }
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.#facets[name];
  }

  readonly #amend: AmendFacet = {
    amend: async (options, { force = false }) => {
      if (this.#unlocked === undefined) throw new BlockError('INVALID_ARGUMENT', 'The image is not unlocked');
      await this.#unlocked.amend(amendOptions(options, '', this.#find, force));
    },
  };

  readonly #facets: Partial<Facets> = {
    amend: this.#amend,
    formatInfo: { specific: () => ({ type: 'luks', data: this.#volume.info() }), encrypted: true },
    background: {
      allowBackgroundWrites: () => {
        this.#file.facet('background')?.allowBackgroundWrites();
        return false;
      },
    },
  };

  override reopen(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
