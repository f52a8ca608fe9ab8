/** What a server offers: exports by name. */
import type { BlockBackend } from '../../block/child.js';
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError } from '../../block/errors.js';
import type { MaybePromise } from '../../util/maybe.js';
import { Context, MAX_PAYLOAD, TransmissionFlag } from '../../wire/nbd/constants.js';
import type { BlockSizes } from '../../wire/nbd/handshake.js';

export interface ExportListing { readonly name: string; readonly description: string }

export interface NbdExportOptions {
  readonly name: string;
  readonly description?: string;
  /** Default false; the backend must then hold the write permission. */
  readonly writable?: boolean;
  /** Names of dirty bitmaps to offer as contexts; each must be on the backend's node or below it in the chain. */
  readonly bitmaps?: readonly string[];
  readonly allocationDepth?: boolean;
  /** A client may use several connections: a flush on one covers all. Default true, as all connections share the backend. */
  readonly multiConn?: boolean;
}

/** A backend under a name. The export borrows the backend: whoever made it closes it. */
export class NbdExport {
  readonly name: string;
  readonly description: string;
  readonly backend: BlockBackend;
  readonly writable: boolean;
  readonly bitmaps: ReadonlyMap<string, DirtyBitmap>;
  readonly allocationDepth: boolean;
  readonly multiConn: boolean;

  /** @throws BlockError in QEMU's words where a bitmap cannot be offered */
  constructor(backend: BlockBackend, options: NbdExportOptions) {
    this.backend = backend;
    this.name = options.name;
    this.description = options.description ?? '';
    this.writable = (options.writable ?? false) && !backend.readOnly;
    this.allocationDepth = options.allocationDepth ?? false;
    this.multiConn = options.multiConn ?? true;
    this.bitmaps = new Map((options.bitmaps ?? []).map((name) => [name, this.#findBitmap(name)]));
  }

  get size(): number {
    return this.backend.size;
  }

  /** Contexts a client may ask for, in the order they are listed. */
  get contexts(): readonly string[] {
    return [
      Context.BASE_ALLOCATION,
      ...(this.allocationDepth ? [Context.ALLOCATION_DEPTH] : []),
      ...[...this.bitmaps.keys()].map((name) => Context.DIRTY_BITMAP_PREFIX + name),
    ];
  }

  get blockSizes(): BlockSizes {
    const minimum = this.backend.node.ops.limits.requestAlignment;
    return { minimum, preferred: Math.max(4096, minimum), maximum: MAX_PAYLOAD };
  }

  /** As announced to a client that has negotiated structured replies or extended headers, or neither. */
  transmissionFlags(structured: boolean, extended: boolean): number {
    const flag = TransmissionFlag;
    return flag.HAS_FLAGS | flag.SEND_FLUSH | flag.SEND_FUA | flag.SEND_CACHE
      | (this.writable ? flag.SEND_TRIM | flag.SEND_WRITE_ZEROES | flag.SEND_FAST_ZERO : flag.READ_ONLY)
      | (this.multiConn ? flag.CAN_MULTI_CONN : 0)
      | (structured || extended ? flag.SEND_DF : 0)
      | (extended ? flag.BLOCK_STATUS_PAYLOAD : 0);
  }

  #findBitmap(name: string): DirtyBitmap {
    for (let node: BlockBackend['node'] | undefined = this.backend.node; node !== undefined; node = node.backing) {
      const bitmap = node.bitmaps.get(name);
      if (bitmap === undefined) continue;
      bitmap.assertUsable({});
      if (!this.backend.readOnly && !this.writable && bitmap.recording) {
        throw new BlockError('INVALID_ARGUMENT', `Enabled bitmap '${name}' incompatible with readonly export`);
      }
      return bitmap;
    }
    throw new BlockError('NOT_FOUND', `Bitmap '${name}' is not found`);
  }
}

/** Where a server looks exports up. */
export interface ExportDirectory {
  list(): MaybePromise<readonly ExportListing[]>;
  /** An export to use until it is released; undefined: no such name. Rejects where it exists but cannot be opened. */
  acquire(name: string): MaybePromise<NbdExport | undefined>;
  release(lent: NbdExport): void;
}

/** A fixed set of exports. */
export class ExportRegistry implements ExportDirectory {
  readonly #exports = new Map<string, NbdExport>();

  constructor(exports: Iterable<NbdExport> = []) {
    for (const each of exports) this.add(each);
  }

  /** @throws BlockError ALREADY_EXISTS where the name is taken */
  add(added: NbdExport): void {
    if (this.#exports.has(added.name)) throw new BlockError('ALREADY_EXISTS', `NBD server already has export named '${added.name}'`);
    this.#exports.set(added.name, added);
  }

  /** Clients that use it keep it until they leave. */
  remove(name: string): boolean {
    return this.#exports.delete(name);
  }

  list(): readonly ExportListing[] {
    return [...this.#exports.values()];
  }

  acquire(name: string): NbdExport | undefined {
    return this.#exports.get(name);
  }

  release(): void {}
}
