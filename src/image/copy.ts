/** Copying disks into another: several pieces under way, holes kept, writes in order unless they need not be. */
import type { BlockBackend } from '../block/child.js';
import { Req } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import { eventsHandled, isZero } from '../platform/bytes.js';
import { isPromise } from '../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../util/steps.js';
import { CopyPlan, type CopySegment, type CopySource } from './copy-plan.js';
import { RatePacer } from './pacer.js';

const sector = 512;
/** Largest piece that is read, then written. */
const pieceBytes = 2 << 20;
const turnMs = 50;

export interface CopyControl {
  /** Runs of zeroes in data at least this long are not written as data; 0: everything is written. Bytes. */
  readonly minSparse: number;
  /** Unit in which the target stores zeroes; finer zeroes are written as data. Bytes. */
  readonly zeroUnit: number;
  /** Whole clusters of this many bytes are stored compressed. */
  readonly compressedCluster?: number | undefined;
  /** Zeroes need not be written: the target is known to read as zero. */
  readonly targetIsZero: boolean;
  /** The target's backing file shows what the sources' bases show; its size. Zeroes must be written, bases are left out. */
  readonly targetBackingSize?: number | undefined;
  /** Pieces under way at a time. */
  readonly parallel: number;
  /** Pieces may be written in another order than that of the disk. */
  readonly outOfOrder?: boolean;
  /** Bytes per second; 0: no limit. */
  readonly rate?: number;
  /** Read what can be read and zero the rest; each loss is reported. */
  readonly salvage?: ((message: string) => void) | undefined;
  /** Let the host copy where source and target lie plainly in files. */
  readonly offload?: boolean;
  readonly progress?: ((done: number, total: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Copies the sources, one behind the other, to the start of the target.
 * @throws BlockError whose message names the place: `error while reading at byte …`, `error while writing at byte …`
 */
export async function copyImages(sources: readonly CopySource[], target: BlockBackend, control: CopyControl): Promise<void> {
  const plan = new CopyPlan(sources, {
    alignment: control.compressedCluster ?? 1,
    targetBackingSize: control.targetBackingSize,
    onUnknown: control.salvage && ((offset, error) => control.salvage?.(`error while reading block status at offset ${offset}: ${error.message}`)),
  });
  await new Copy(plan, target, control).run();
}

class Copy {
  readonly #plan: CopyPlan;
  readonly #target: BlockBackend;
  readonly #control: CopyControl;
  readonly #pacer: RatePacer;
  readonly #taking = new Mutex();
  readonly #order = new WriteOrder();
  #next = 0;
  #done = 0;
  #total = 0;
  #failed = false;
  #lastTurn = performance.now();

  constructor(plan: CopyPlan, target: BlockBackend, control: CopyControl) {
    this.#plan = plan;
    this.#target = target;
    this.#control = control;
    this.#pacer = new RatePacer(control.rate ?? 0);
  }

  async run(): Promise<void> {
    if (this.#control.progress || this.#control.salvage) await run(this.#count());
    const workers = [];
    for (let i = 0; i < this.#control.parallel && this.#next < this.#plan.size; i++) {
      // Where nothing waits, the first does it all and the others find nothing left.
      workers.push(settle(() => run(this.#work())));
    }
    const failures = (await Promise.all(workers)).filter((failure) => failure !== undefined);
    if (failures.length > 0) throw failures[0]!.error;
  }

  /** How much there is to do, for the progress. */
  *#count(): Steps<void> {
    for (let at = 0; at < this.#plan.size;) {
      const { kind, length } = yield* this.#plan.segment(at, this.#plan.size);
      if (this.#isWork(kind)) this.#total += length;
      at += length;
    }
  }

  #isWork(kind: CopySegment['kind']): boolean {
    return kind === 'data' || (kind === 'zero' && this.#control.minSparse === 0);
  }

  *#work(): Steps<void> {
    const buffer = new Uint8Array(pieceBytes);
    try {
      for (;;) {
        const piece = yield* wait(this.#taking.run(() => run(this.#take())));
        if (piece === undefined) return;
        yield* this.#copyPiece(piece, buffer.subarray(0, Math.min(piece.length, pieceBytes)));
        yield* this.#turn();
      }
    } catch (error) {
      this.#failed = true;
      this.#order.abandon();
      throw error;
    }
  }

  *#take(): Steps<(CopySegment & { readonly ticket: number }) | undefined> {
    if (this.#failed || this.#next >= this.#plan.size) return undefined;
    const piece = yield* this.#plan.segment(this.#next, this.#plan.size);
    const isWork = this.#isWork(piece.kind);
    const length = isWork ? Math.min(piece.length, pieceBytes) : piece.length;
    this.#next += length;
    if (isWork) this.#control.progress?.(this.#done += length, this.#total);
    return { ...piece, length, ticket: this.#order.ticket() };
  }

  *#copyPiece(piece: CopySegment & { readonly ticket: number }, buffer: Uint8Array): Steps<void> {
    const { kind, offset, length, ticket } = piece;
    if (this.#control.offload && kind === 'data' && piece.host && (yield* this.#offloaded(piece))) {
      this.#order.done(ticket);
      return;
    }
    const isWork = this.#isWork(kind);
    if (kind === 'data') yield* this.#read(offset, buffer);
    else if (isWork) buffer.fill(0);
    if (!this.#control.outOfOrder && !(yield* wait(this.#order.turn(ticket)))) return;
    const written = run(this.#write(piece, buffer));
    // Compressed clusters take long to make and are small to write: the next piece need not wait for them.
    if (this.#control.compressedCluster !== undefined) this.#order.done(ticket);
    yield* wait(written);
    this.#order.done(ticket);
    if (isWork && this.#control.rate) yield* wait(this.#pacer.spent(length));
  }

  *#read(offset: number, target: Uint8Array): Steps<void> {
    try {
      yield* this.#plan.read(offset, target);
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      if (!this.#control.salvage) throw placed(error, `error while reading at byte ${offset}`);
      yield* this.#salvage(offset, target);
    }
  }

  /** Sector by sector. */
  *#salvage(offset: number, target: Uint8Array): Steps<void> {
    for (let done = 0; done < target.length; done += sector) {
      const part = target.subarray(done, done + sector);
      try {
        yield* this.#plan.read(offset + done, part);
      } catch (error) {
        if (!(error instanceof BlockError)) throw error;
        this.#control.salvage?.(`error while reading offset ${offset + done}: ${error.message}`);
        part.fill(0);
      }
    }
  }

  *#write({ kind, offset, length }: CopySegment, buffer: Uint8Array): Steps<void> {
    const { compressedCluster, minSparse } = this.#control;
    try {
      if (kind === 'backing') return;
      if (!this.#isWork(kind)) yield* this.#zero(offset, length);
      else if (compressedCluster !== undefined) yield* this.#writeCompressed(offset, buffer, compressedCluster);
      else if (minSparse === 0) yield* wait(this.#target.write(offset, buffer));
      else yield* this.#writeSparse(offset, buffer);
    } catch (error) {
      throw error instanceof BlockError ? placed(error, `error while writing at byte ${offset}`) : error;
    }
  }

  /** All clusters at once: they are compressed beside each other. */
  *#writeCompressed(offset: number, buffer: Uint8Array, cluster: number): Steps<void> {
    const waiting: Promise<void>[] = [];
    for (let at = 0; at < buffer.length; at += cluster) {
      const bytes = buffer.subarray(at, at + cluster);
      if (this.#control.targetIsZero && this.#control.minSparse > 0 && isZero(bytes)) continue;
      const written = this.#target.write(offset + at, bytes, Req.COMPRESSED);
      if (isPromise(written)) waiting.push(written);
    }
    if (waiting.length === 0) return;
    const results = yield* wait(Promise.allSettled(waiting));
    for (const result of results) if (result.status === 'rejected') throw result.reason as Error;
  }

  /** Units count from the start of the disk, whatever pieces it is cut into. */
  *#writeSparse(offset: number, buffer: Uint8Array): Steps<void> {
    const unit = Math.max(this.#control.minSparse, this.#control.zeroUnit);
    const unitEnd = (at: number): number => Math.min(buffer.length, at + unit - ((offset + at) % unit));
    for (let start = 0; start < buffer.length;) {
      let end = unitEnd(start);
      const zero = isZero(buffer.subarray(start, end));
      for (let next; end < buffer.length; end = next) {
        next = unitEnd(end);
        if (isZero(buffer.subarray(end, next)) !== zero) break;
      }
      if (zero) yield* this.#zero(offset + start, end - start);
      else yield* wait(this.#target.write(offset + start, start === 0 && end === buffer.length ? buffer : buffer.subarray(start, end)));
      start = end;
    }
  }

  *#zero(offset: number, length: number): Steps<void> {
    if (!this.#control.targetIsZero) yield* wait(this.#target.writeZeroes(offset, length, Req.MAY_UNMAP));
  }

  /** False: the host cannot, and is not asked again for this piece. */
  *#offloaded({ host, offset, length }: CopySegment): Steps<boolean> {
    const from = host!.node.facet('descriptor');
    const to = this.#target.node.facet('copyRange');
    if (from === undefined || to === undefined) return false;
    try {
      return yield* wait(to.copyFrom(from, host!.offset, offset, length));
    } catch (error) {
      throw error instanceof BlockError ? placed(error, `error while writing at byte ${offset}`) : error;
    }
  }

  /** Now and then signals and timers are served, also where nothing waits. */
  *#turn(): Steps<void> {
    if (performance.now() - this.#lastTurn < turnMs) return;
    yield* wait(eventsHandled());
    this.#control.signal?.throwIfAborted();
    this.#lastTurn = performance.now();
  }
}

/** Lets pieces be written in the order in which they were taken. */
class WriteOrder {
  #issued = 0;
  /** Every ticket below has been written. */
  #served = 0;
  readonly #early = new Set<number>();
  readonly #waiting = new Map<number, (go: boolean) => void>();
  #abandoned = false;

  ticket(): number {
    return this.#issued++;
  }

  /** Resolves true when all before are done; false: give up. */
  turn(ticket: number): true | Promise<boolean> {
    return ticket === this.#served ? true : new Promise((resolve) => this.#abandoned ? resolve(false) : this.#waiting.set(ticket, resolve));
  }

  done(ticket: number): void {
    if (ticket < this.#served) return;
    this.#early.add(ticket);
    while (this.#early.delete(this.#served)) this.#served++;
    const next = this.#waiting.get(this.#served);
    this.#waiting.delete(this.#served);
    next?.(true);
  }

  abandon(): void {
    this.#abandoned = true;
    for (const giveUp of this.#waiting.values()) giveUp(false);
    this.#waiting.clear();
  }
}

function placed(error: BlockError, place: string): BlockError {
  return new BlockError(error.code, `${place}: ${error.message}`, error.context, error);
}

/** The failure of a request, or undefined. */
function settle(request: () => void | Promise<void>): Promise<{ readonly error: unknown } | undefined> {
  return new Promise<void>((resolve) => resolve(request())).then(() => undefined, (error: unknown) => ({ error }));
}
