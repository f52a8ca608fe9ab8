import type { BlockChild } from '../../block/child.js';
import { BlockOps, Req, type Capabilities, type LayerExtent } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { firstDifference } from '../../platform/bytes.js';
import type { MaybePromise } from '../../util/maybe.js';
import { run, wait, type Steps } from '../../util/steps.js';

export class QuorumOps extends BlockOps {
  readonly capabilities: Capabilities;
  readonly #copies: readonly BlockChild[];
  readonly #threshold: number;
  readonly #fifo: boolean;

  constructor(copies: readonly BlockChild[], threshold: number, fifo: boolean) {
    super();
    this.#copies = copies;
    this.#threshold = threshold;
    this.#fifo = fifo;
    this.capabilities = {
      write: copies.every(({ node }) => node.ops.capabilities.write),
      writeFlags: 0, zeroFlags: Req.MAY_UNMAP, discard: false, resize: 'none', growsOnWrite: false,
    };
    if (copies.some(({ size }) => size !== copies[0]!.size)) throw systemError(Errno.EIO);
  }

  get size(): number {
    return this.#copies[0]!.size;
  }

  read(offset: number, target: Uint8Array, flags: number): MaybePromise<void> {
    return run(this.#fifo ? this.#readFirst(offset, target, flags) : this.#readAll(offset, target, flags));
  }

  *#readFirst(offset: number, target: Uint8Array, flags: number): Steps<void> {
    let failure: unknown;
    for (const copy of this.#copies) {
      failure = yield* attempt(() => copy.read(offset, target, flags));
      if (failure === undefined) return;
    }
    throw failure;
  }

  *#readAll(offset: number, target: Uint8Array, flags: number): Steps<void> {
    const versions: { readonly bytes: Uint8Array; votes: number }[] = [];
    let failure: unknown;
    for (const copy of this.#copies) {
      const bytes = new Uint8Array(target.length);
      const failed = yield* attempt(() => copy.read(offset, bytes, flags));
      failure ??= failed;
      if (failed !== undefined) continue;
      const same = versions.find((version) => firstDifference(version.bytes, bytes) === -1);
      if (same) same.votes++;
      else versions.push({ bytes, votes: 1 });
    }
    const winner = versions.reduce<(typeof versions)[number] | undefined>((best, version) => (best && best.votes >= version.votes ? best : version), undefined);
    if (winner === undefined || winner.votes < this.#threshold) throw failure ?? systemError(Errno.EIO, { op: 'read', offset, length: target.length });
    target.set(winner.bytes);
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    return run(this.#onAll((copy) => copy.write(offset, source, flags)));
  }

  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    return run(this.#onAll((copy) => copy.writeZeroes(offset, length, flags)));
  }

  override flush(): MaybePromise<void> {
    return run(this.#onAll((copy) => copy.flush()));
  }

  /** Succeeds where it did for as many copies as must agree. */
  *#onAll(request: (copy: BlockChild) => MaybePromise<void>): Steps<void> {
    let failure: unknown;
    let done = 0;
    for (const copy of this.#copies) {
      const failed = yield* attempt(() => request(copy));
      failure ??= failed;
      if (failed === undefined) done++;
    }
    if (done < this.#threshold) throw failure;
  }

  /** Zero where all copies say so. */
  status(offset: number, length: number): MaybePromise<LayerExtent> {
    return run(this.#status(offset, length));
  }

  *#status(offset: number, length: number): Steps<LayerExtent> {
    let shortest = length;
    let zero = true;
    for (const copy of this.#copies) {
      const status = yield* wait(copy.status(offset, shortest));
      shortest = Math.min(shortest, Math.max(1, status.length));
      zero &&= status.zero;
    }
    return zero ? { kind: 'zero', length: shortest, allocated: true } : { kind: 'data', length: shortest };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** The failure, if it fails. */
function* attempt(request: () => MaybePromise<void>): Steps<unknown> {
  try {
    yield* wait(request());
    return undefined;
  } catch (error) {
    if (error instanceof BlockError) return error;
    throw error;
  }
}
