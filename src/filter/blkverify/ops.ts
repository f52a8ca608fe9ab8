import type { BlockChild } from '../../block/child.js';
import { BlockOps, Req, type Capabilities, type LayerExtent } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { firstDifference } from '../../platform/bytes.js';
import { isPromise, type MaybePromise } from '../../util/maybe.js';

type Outcome = { readonly errno: number; readonly error?: unknown };
const success: Outcome = { errno: 0 };

export class BlkverifyOps extends BlockOps {
  readonly capabilities: Capabilities;
  readonly #test: BlockChild;
  readonly #raw: BlockChild;

  constructor(test: BlockChild, raw: BlockChild) {
    super();
    this.#test = test;
    this.#raw = raw;
    this.capabilities = {
      write: test.node.ops.capabilities.write && raw.node.ops.capabilities.write,
      writeFlags: Req.FUA, zeroFlags: undefined, discard: false, resize: 'none', growsOnWrite: false,
    };
  }

  get size(): number {
    return this.#test.size;
  }

  read(offset: number, target: Uint8Array, flags: number): MaybePromise<void> {
    const copy = new Uint8Array(target.length);
    return this.#both('read', offset, target.length, () => this.#test.read(offset, target, flags), () => this.#raw.read(offset, copy, flags), () => {
      const at = firstDifference(target, copy);
      if (at >= 0) throw this.#mismatch(`read offset=${offset} bytes=${target.length} contents mismatch at offset ${offset + at}`, offset, target.length);
    });
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    return this.#both('write', offset, source.length,
      () => this.#test.write(offset, source, flags), () => this.#raw.write(offset, source, flags));
  }

  /** The copy is only for comparing; nobody needs it durable. */
  override flush(): MaybePromise<void> {
    return this.#test.flush();
  }

  /** The copy is the host of what is shown, as for the peer. */
  status(offset: number, length: number): LayerExtent {
    return { kind: 'child', length, host: { child: this.#raw, offset } };
  }

  override filename(): string | undefined {
    const raw = this.#raw.node.filename;
    const test = this.#test.node.filename;
    return raw.startsWith('json:') || test.startsWith('json:') ? undefined : `blkverify:${raw}:${test}`;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Runs a request on both; they must end alike. */
  #both(op: string, offset: number, length: number, onTest: () => MaybePromise<void>, onRaw: () => MaybePromise<void>, compare?: () => void): MaybePromise<void> {
    const test = outcome(onTest);
    const raw = outcome(onRaw);
    const finish = (first: Outcome, second: Outcome): void => {
      if (first.errno !== second.errno) {
        throw this.#mismatch(`${op} offset=${offset} bytes=${length} return value mismatch ${-first.errno} != ${-second.errno}`, offset, length);
      }
      if (first.error !== undefined) throw first.error;
      compare?.();
    };
    if (!isPromise(test) && !isPromise(raw)) return finish(test, raw);
    return Promise.all([test, raw]).then(([first, second]) => finish(first, second));
  }

  #mismatch(text: string, offset: number, length: number): BlockError {
    return new BlockError('CORRUPT_IMAGE', `blkverify: ${text}`, { driver: 'blkverify', op: 'verify', offset, length });
  }
}

function outcome(request: () => MaybePromise<void>): MaybePromise<Outcome> {
  const failed = (error: unknown): Outcome => {
    if (!(error instanceof BlockError)) throw error;
    return { errno: error.errno, error };
  };
  try {
    const result = request();
    return isPromise(result) ? result.then(() => success, failed) : success;
  } catch (error) {
    return failed(error);
  }
}
