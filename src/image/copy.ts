/** Copying disks into another: several pieces under way, holes kept, writes in order unless they need not be. */
import type { BlockBackend } from '../block/child.js';
import { Req } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { copyBuffer, eventsHandled, isZero } from '../platform/bytes.js';
import { clockMs } from '../platform/clock.js';
import { isPromise, together, type MaybePromise } from '../util/maybe.js';
import { run, wait, type Steps } from '../util/steps.js';
import { CopyPlan, type CopySegment, type CopySource } from './copy-plan.js';
import { RatePacer } from './pacer.js';

const sector = 512;
/** Largest piece that is read, then written: progress and errors speak of them, as the peer's do. */
const pieceBytes = 2 << 20;
/** Most under way where reading never waits and a thread copies what is written: more would only leave the processor's cache. */
const bytesInMemory = 2 * pieceBytes;
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
  /** Progress is the place on the disk: how much there is to copy is not looked up beforehand. */
  readonly progressByPlace?: boolean;
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
  const inBackground = control.compressedCluster === undefined && allowBackgroundWrites(target.node);
  await new Copy(plan, target, control, inBackground).run();
  if (control.compressedCluster === undefined) return;
  try {
    // tells the format that nothing follows
    await target.write(0, new Uint8Array(), Req.COMPRESSED);
  } catch (error) {
    throw error instanceof BlockError ? placed(error, 'error while writing at byte 0') : error;
  }
}

/**
 * While one thread writes a piece, this one reads the next. (Where others compress, all processors are busy without it.) True where all
 * writes are made so.
 */
function allowBackgroundWrites(node: BlockNode): boolean {
  const facet = node.facet('background');
  if (facet) return facet.allowBackgroundWrites();
  const below = [...node.children.values()].filter(({ role }) => role !== 'cow').map((child) => allowBackgroundWrites(child.node));
  return below.length > 0 && below.every((inBackground) => inBackground);
}

/** A segment, or as much of it as is copied at a time. */
interface Piece extends CopySegment { readonly ticket: number }

/**
 * Pieces are started one after the other. Where nothing waits, one is done before the next begins, and they all use the same
 * memory; those that wait do so beside each other.
 */
class Copy {
  readonly #plan: CopyPlan;
  readonly #target: BlockBackend;
  readonly #control: CopyControl;
  readonly #inBackground: boolean;
  readonly #pieceBytes: number;
  readonly #zeroUnit: number;
  readonly #pacer: RatePacer;
  readonly #order = new WriteOrder();
  readonly #buffers: Uint8Array[] = [];
  #underWay = 0;
  #bytesUnderWay = 0;
  /** Tells run() that a piece has ended. */
  #wake: (() => void) | undefined;
  #readsWait = false;
  #next = 0;
  #done = 0;
  #total = 0;
  /** The failure nearest to the start of the disk. */
  #failure: { readonly error: unknown; readonly ticket: number } | undefined;
  #lastTurn = clockMs();

  constructor(plan: CopyPlan, target: BlockBackend, control: CopyControl, inBackground: boolean) {
    this.#plan = plan;
    this.#target = target;
    this.#control = control;
    this.#inBackground = inBackground;
    const least = Math.max(pieceBytes, control.compressedCluster ?? 0, control.minSparse);
    // a target that is zero anyway is only spared zeroes
    this.#zeroUnit = control.targetIsZero ? Math.min(control.zeroUnit, least) : control.zeroUnit;
    this.#pieceBytes = Math.max(least, this.#zeroUnit);
    this.#pacer = new RatePacer(control.rate ?? 0);
  }

  async run(): Promise<void> {
    if (this.#control.salvage || (this.#control.progress && !this.#control.progressByPlace)) await run(this.#count());
    try {
      while (this.#failure === undefined) {
        this.#control.signal?.throwIfAborted();
        const taken = run(this.#take());
        const piece = isPromise(taken) ? await taken : taken;
        if (piece === undefined) break;
        this.#start(piece);
        if (this.#full) await this.#oneEnded();
        else if (this.#underWay > 0 || clockMs() - this.#lastTurn > turnMs) await this.#turn();
        if (this.#control.rate) await this.#pacer.spent(this.#isWork(piece.kind) ? piece.length : 0);
      }
    } catch (error) {
      this.#fail(error, Infinity);
    }
    while (this.#underWay > 0) await this.#oneEnded();
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  /** As much is under way as may be at a time. */
  get #full(): boolean {
    if (this.#underWay >= this.#control.parallel) return true;
    return this.#inBackground && !this.#readsWait && this.#bytesUnderWay >= bytesInMemory;
  }

  /** Others get their turn: signals, timers, and what has been waited for. */
  async #turn(): Promise<void> {
    await eventsHandled();
    this.#lastTurn = clockMs();
  }

  #fail(error: unknown, ticket: number): void {
    if (this.#failure === undefined || ticket < this.#failure.ticket) this.#failure = { error, ticket };
    this.#order.abandon();
  }

  #start(piece: Piece): void {
    let done;
    try {
      done = run(this.#copyPiece(piece));
    } catch (error) {
      return this.#fail(error, piece.ticket);
    }
    if (!isPromise(done)) return;
    this.#underWay++;
    this.#bytesUnderWay += piece.length;
    const ended = (): void => {
      this.#underWay--;
      this.#bytesUnderWay -= piece.length;
      this.#wake?.();
    };
    done.then(ended, (error: unknown) => {
      this.#fail(error, piece.ticket);
      ended();
    });
  }

  #oneEnded(): Promise<void> {
    return new Promise((resolve) => { this.#wake = resolve; });
  }

  /** How much there is to do, for the progress. */
  *#count(): Steps<void> {
    for (let at = 0; at < this.#plan.size;) {
      const { kind, length } = yield* this.#plan.segment(at, this.#plan.size);
      if (this.#isWork(kind)) this.#total += length;
      at += length;
    }
  }

  /** What has to go through memory. */
  #isWork(kind: CopySegment['kind']): boolean {
    return kind === 'data' || (kind === 'zero' && this.#control.minSparse === 0);
  }

  *#take(): Steps<Piece | undefined> {
    if (this.#next >= this.#plan.size) return undefined;
    const segment = yield* this.#plan.segment(this.#next, this.#plan.size);
    const isWork = this.#isWork(segment.kind);
    const length = isWork ? Math.min(segment.length, this.#pieceBytes) : segment.length;
    this.#next += length;
    if (this.#control.progressByPlace) this.#control.progress?.(this.#next, this.#plan.size);
    else if (isWork) this.#control.progress?.(this.#done += length, this.#total);
    return { ...segment, length, ticket: this.#order.ticket() };
  }

  *#copyPiece(piece: Piece): Steps<void> {
    if (piece.kind === 'data' && this.#control.offload && (yield* this.#offloaded(piece))) {
      this.#order.done(piece.ticket);
      return;
    }
    if (!this.#isWork(piece.kind)) return yield* this.#inOrder(piece, undefined);
    const memory = this.#buffers.pop() ?? copyBuffer(this.#pieceBytes, this.#control.compressedCluster !== undefined);
    try {
      const buffer = memory.subarray(0, piece.length);
      if (piece.kind === 'data') yield* this.#read(piece, buffer);
      else buffer.fill(0);
      yield* this.#inOrder(piece, buffer);
    } finally {
      this.#buffers.push(memory);
    }
  }

  /** Writes are sent in order; they may be under way beside each other. */
  *#inOrder(piece: Piece, buffer: Uint8Array | undefined): Steps<void> {
    if (!this.#control.outOfOrder && !(yield* wait(this.#order.turn(piece.ticket)))) return;
    let written;
    try {
      written = run(this.#write(piece, buffer));
    } finally {
      this.#order.done(piece.ticket);
    }
    yield* wait(written);
  }

  *#read({ offset, unit }: Piece, target: Uint8Array): Steps<void> {
    try {
      const read = run(this.#plan.read(offset, target));
      this.#readsWait ||= isPromise(read);
      yield* wait(read);
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      if (this.#control.salvage) yield* this.#salvage(offset, target);
      else throw yield* this.#readFailure(error, offset, target, unit);
    }
  }

  /** Finds the unit that failed. */
  *#readFailure(error: BlockError, offset: number, target: Uint8Array, unit = target.length): Steps<BlockError> {
    for (let done = 0; done < target.length && unit < target.length; done += unit) {
      try {
        yield* this.#plan.read(offset + done, target.subarray(done, done + unit));
      } catch (again) {
        if (again instanceof BlockError) return placed(again, `error while reading at byte ${offset + done}`);
        throw again;
      }
    }
    return placed(error, `error while reading at byte ${offset}`);
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

  *#write({ kind, offset, length }: Piece, buffer: Uint8Array | undefined): Steps<void> {
    const { compressedCluster, minSparse } = this.#control;
    try {
      if (kind === 'backing') return;
      if (buffer === undefined) yield* wait(this.#zero(offset, length));
      else if (compressedCluster !== undefined) yield* wait(together(this.#compressedWrites(offset, buffer, compressedCluster)));
      else if (minSparse === 0) yield* wait(this.#target.write(offset, buffer));
      else yield* wait(together(this.#sparseWrites(offset, buffer)));
    } catch (error) {
      throw error instanceof BlockError ? placed(error, `error while writing at byte ${offset}`) : error;
    }
  }

  /** All at once: they are compressed beside each other. */
  *#compressedWrites(offset: number, buffer: Uint8Array, cluster: number): Requests {
    const skipsZeroes = this.#control.targetIsZero && this.#control.minSparse > 0;
    for (let start = 0; start < buffer.length;) {
      const zero = skipsZeroes && isZero(buffer, start, Math.min(start + cluster, buffer.length));
      const end = skipsZeroes ? endOfRun(buffer, start, cluster, zero) : buffer.length;
      if (!zero) yield this.#target.write(offset + start, buffer.subarray(start, end), Req.COMPRESSED);
      start = end;
    }
  }

  /** Units count from the start of the disk, whatever pieces it is cut into. All runs are sent before any is waited for. */
  *#sparseWrites(offset: number, buffer: Uint8Array): Requests {
    const unit = Math.max(this.#control.minSparse, this.#zeroUnit);
    for (let start = 0; start < buffer.length;) {
      const unitEnd = Math.min(buffer.length, start + unit - ((offset + start) % unit));
      const zero = isZero(buffer, start, unitEnd);
      const end = endOfRun(buffer, unitEnd, unit, zero);
      yield zero ? this.#zero(offset + start, end - start) : this.#target.write(offset + start, buffer.subarray(start, end));
      start = end;
    }
  }

  #zero(offset: number, length: number): MaybePromise<void> {
    return this.#control.targetIsZero ? undefined : this.#target.writeZeroes(offset, length, Req.MAY_UNMAP);
  }

  /** False: the host cannot, and is not asked again for this piece. */
  *#offloaded({ host, offset, length }: Piece): Steps<boolean> {
    const from = host?.node.facet('descriptor');
    const to = this.#target.node.facet('copyRange');
    if (from === undefined || to === undefined) return false;
    try {
      return yield* wait(to.copyFrom(from, host!.offset, offset, length));
    } catch (error) {
      throw error instanceof BlockError ? placed(error, `error while writing at byte ${offset}`) : error;
    }
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

/** End of the units from `start` on that are zero, or of those that are not. Most are seen to hold data by their first byte. */
function endOfRun(buffer: Uint8Array, start: number, unit: number, zero: boolean): number {
  for (let at = start; at < buffer.length; at += unit) {
    if ((buffer[at] === 0 && isZero(buffer, at, Math.min(at + unit, buffer.length))) !== zero) return at;
  }
  return buffer.length;
}

/** Requests that are sent as they are asked for. */
type Requests = Iterable<MaybePromise<void>>;

function placed(error: BlockError, place: string): BlockError {
  return new BlockError(error.code, `${place}: ${error.message}`, error.context, error);
}
