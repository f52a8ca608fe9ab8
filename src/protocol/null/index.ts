/** Drivers `null-co` and `null-aio`: a disk that forgets what is written. For measuring what stands above it. */
import { type BlockDriver, BlockOps, type Capabilities, type LayerExtent, type OpenContext, Req } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { Facets } from '../../block/facets.js';
import type { OptionSchema } from '../../block/options.js';
import type { MaybePromise } from '../../util/maybe.js';

export interface NullOptions {
  /** Size in bytes; 1 GiB by default. */
  readonly size?: number;
  /** Time every request takes, in nanoseconds (timers round it up to milliseconds); 0, the default, answers at once. */
  readonly 'latency-ns'?: number;
  /** Reported as zero by status. Reads give zeroes either way, so that nothing of the process's memory leaks. */
  readonly 'read-zeroes'?: boolean;
}

const options: OptionSchema<NullOptions> = {
  size: { type: 'size', help: 'size of the null block' },
  'latency-ns': { type: 'number', help: 'nanoseconds (approximated) to wait before completing request', strong: false },
  'read-zeroes': { type: 'boolean', help: 'return zeroes when read' },
};

const flags = Req.FUA | Req.MAY_UNMAP | Req.NO_FALLBACK;
const capabilities: Capabilities = Object.freeze({
  write: true, writeFlags: flags, zeroFlags: flags, discard: true, resize: 'none', growsOnWrite: false,
});

class NullOps extends BlockOps {
  readonly size: number;
  readonly capabilities = capabilities;
  private readonly latencyMs: number;
  private readonly readsZeroes: boolean;
  private readonly plainName: string | undefined;
  private readonly facets: Partial<Facets> = { allocatedSize: { allocatedSize: () => Promise.resolve(0) } };

  constructor(driver: string, given: NullOptions) {
    super();
    this.size = given.size ?? 2 ** 30;
    this.latencyMs = Math.ceil((given['latency-ns'] ?? 0) / 1e6);
    this.readsZeroes = given['read-zeroes'] ?? false;
    this.plainName = given.size === undefined && given['read-zeroes'] === undefined ? `${driver}://` : undefined;
  }

  read(_offset: number, target: Uint8Array): MaybePromise<void> {
    target.fill(0);
    return this.wait();
  }

  override write(): MaybePromise<void> { return this.wait(); }
  override writeZeroes(): MaybePromise<void> { return this.wait(); }
  override discard(): MaybePromise<void> { return this.wait(); }
  override flush(): MaybePromise<void> { return this.wait(); }

  status(_offset: number, length: number): LayerExtent {
    return this.readsZeroes ? { kind: 'zero', length, allocated: true } : { kind: 'data', length, hole: true };
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined { return this.facets[name]; }
  override filename(): string | undefined { return this.plainName; }
  close(): Promise<void> { return Promise.resolve(); }

  private wait(): MaybePromise<void> {
    if (this.latencyMs === 0) return undefined;
    return new Promise((resolve) => { setTimeout(resolve, this.latencyMs); });
  }
}

function nullDriver(name: 'null-co' | 'null-aio'): BlockDriver<NullOptions> {
  return {
    name,
    kind: 'protocol',
    options,
    children: {},
    protocolPrefixes: [name],
    parseFilename(filename) {
      if (filename !== `${name}://`) throw new BlockError('INVALID_ARGUMENT', `The only allowed filename for this driver is '${name}://'`, { driver: name, filename });
      return {};
    },
    open(context: OpenContext<NullOptions>) {
      if ((context.options['latency-ns'] ?? 0) < 0) throw new BlockError('INVALID_ARGUMENT', 'latency-ns is invalid', { driver: name });
      return new NullOps(name, context.options);
    },
  };
}

export const nullCo = nullDriver('null-co');
export const nullAio = nullDriver('null-aio');
