/** Edges of the graph: what everybody but a driver author holds. */
import { isPromise, type MaybePromise } from '../util/maybe.js';
import { Perm, Req, type ChildRole, type ResizeOptions } from './driver.js';
import { BlockError, Errno, systemError } from './errors.js';
import type { Facets } from './facets.js';
import type { BlockNode } from './node.js';
import { blockStatus, type BlockStatus } from './status.js';

/**
 * An edge from a parent to a node: a role, permissions taken and shared.
 * Reads past the node's end are zero-filled; writes past it extend the node where the edge holds RESIZE.
 */
export class BlockChild {
  readonly name: string;
  readonly role: ChildRole;
  /** Undefined for a root edge. */
  readonly parent: BlockNode | undefined;
  node: BlockNode;
  take = 0;
  share: number = Perm.ALL;

  constructor(name: string, role: ChildRole, node: BlockNode, parent?: BlockNode) {
    this.name = name;
    this.role = role;
    this.node = node;
    this.parent = parent;
  }

  /** Who this is, for people: it ends up in the refusal another user gets. */
  get description(): string {
    return `node '${this.parent?.name ?? ''}'`;
  }

  get size(): number {
    return this.node.ops.size;
  }

  read(offset: number, target: Uint8Array, flags = 0): MaybePromise<void> {
    return this.node.read(offset, target, flags);
  }

  write(offset: number, source: Uint8Array, flags = 0): MaybePromise<void> {
    if ((this.take & (Perm.WRITE | (flags & Req.UNCHANGED ? Perm.WRITE_UNCHANGED : 0))) === 0) throw this.#denied('write');
    if (offset + source.length > this.node.ops.size) return this.#extend(offset + source.length, () => this.node.write(offset, source, flags));
    return this.node.write(offset, source, flags);
  }

  writeZeroes(offset: number, length: number, flags = 0): MaybePromise<void> {
    if ((this.take & (Perm.WRITE | (flags & Req.UNCHANGED ? Perm.WRITE_UNCHANGED : 0))) === 0) throw this.#denied('writeZeroes');
    if (offset + length > this.node.ops.size) return this.#extend(offset + length, () => this.node.writeZeroes(offset, length, flags));
    return this.node.writeZeroes(offset, length, flags);
  }

  discard(offset: number, length: number): MaybePromise<void> {
    if ((this.take & Perm.WRITE) === 0) throw this.#denied('discard');
    return this.node.discard(offset, Math.min(length, Math.max(0, this.size - offset)));
  }

  flush(): MaybePromise<void> {
    return this.node.flush();
  }

  resize(size: number, options: Partial<ResizeOptions> = {}): Promise<void> {
    if ((this.take & Perm.RESIZE) === 0) return Promise.reject(this.#denied('resize'));
    return this.node.resize(size, { preallocation: 'off', exact: true, zeroNew: false, ...options });
  }

  status(offset: number, length: number, wantZero = true): MaybePromise<BlockStatus> {
    return blockStatus(this.node, offset, length, wantZero);
  }

  facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.node.ops.facet(name);
  }

  #extend(end: number, request: () => MaybePromise<void>): MaybePromise<void> {
    if ((this.take & Perm.RESIZE) === 0) throw this.#denied('write past the end');
    if (this.node.ops.capabilities.growsOnWrite) return request();
    return this.node.grow(end).then(request);
  }

  #denied(op: string): BlockError {
    return new BlockError('PERMISSION', systemError(Errno.EPERM).message, { node: this.node.name, op });
  }
}

export interface BackendStats {
  readBytes: number;
  writeBytes: number;
  readOperations: number;
  writeOperations: number;
  flushOperations: number;
  failedOperations: number;
}

/**
 * A user's root edge. Only here requests are counted and wait: while the graph below is drained, a request stays here and looks
 * its node up again when it goes on.
 */
export class BlockBackend extends BlockChild {
  /** Writes complete only when durable (cache mode writethrough). */
  writethrough = false;
  /** May write past the end, extending the image (the holder of RESIZE decides). */
  allowWriteBeyondEnd = false;
  readonly stats: BackendStats = { readBytes: 0, writeBytes: 0, readOperations: 0, writeOperations: 0, flushOperations: 0, failedOperations: 0 };
  readonly #release: (backend: BlockBackend) => Promise<void>;
  #inFlight = 0;
  #quiesced = 0;
  #closed = false;
  #idleWaiters: (() => void)[] = [];
  #resumeWaiters: (() => void)[] = [];
  readonly #finished = (): void => {
    if (--this.#inFlight === 0) for (const wake of this.#idleWaiters.splice(0)) wake();
  };
  readonly #failed = (error: unknown): never => {
    this.stats.failedOperations++;
    this.#finished();
    throw error;
  };

  constructor(name: string, node: BlockNode, release: (backend: BlockBackend) => Promise<void>) {
    super(name, 'root', node);
    this.#release = release;
  }

  override get description(): string {
    return this.name === '' ? 'an unnamed block device' : `block device '${this.name}'`;
  }

  get readOnly(): boolean {
    return this.node.readOnly;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  override read(offset: number, target: Uint8Array, flags = 0): MaybePromise<void> {
    const end = offset + target.length;
    if (!(offset >= 0 && end <= this.node.ops.size)) this.#checkRange('read', offset, target.length);
    if (this.#quiesced !== 0) return this.#afterDrain(() => this.read(offset, target, flags));
    this.stats.readOperations++;
    this.stats.readBytes += target.length;
    this.#inFlight++;
    let result: MaybePromise<void>;
    try {
      result = this.node.read(offset, target, flags);
    } catch (error) {
      return this.#failed(error);
    }
    return isPromise(result) ? result.then(this.#finished, this.#failed) : this.#finished();
  }

  override write(offset: number, source: Uint8Array, flags = 0): MaybePromise<void> {
    const end = offset + source.length;
    if (!(offset >= 0 && end <= this.node.ops.size)) this.#checkRange('write', offset, source.length);
    if (this.#quiesced !== 0) return this.#afterDrain(() => this.write(offset, source, flags));
    this.stats.writeOperations++;
    this.stats.writeBytes += source.length;
    this.#inFlight++;
    let result: MaybePromise<void>;
    try {
      result = super.write(offset, source, this.writethrough ? flags | Req.FUA : flags);
    } catch (error) {
      return this.#failed(error);
    }
    return isPromise(result) ? result.then(this.#finished, this.#failed) : this.#finished();
  }

  override writeZeroes(offset: number, length: number, flags = 0): MaybePromise<void> {
    this.#checkRange('write', offset, length);
    return this.#counted(() => super.writeZeroes(offset, length, this.writethrough ? flags | Req.FUA : flags));
  }

  override discard(offset: number, length: number): MaybePromise<void> {
    this.#checkRange('discard', offset, length);
    return this.#counted(() => super.discard(offset, length));
  }

  override flush(): MaybePromise<void> {
    this.stats.flushOperations++;
    return this.#counted(() => super.flush());
  }

  override resize(size: number, options: Partial<ResizeOptions> = {}): Promise<void> {
    return super.resize(size, options);
  }

  override status(offset: number, length: number, wantZero = true): MaybePromise<BlockStatus> {
    return this.#counted(() => super.status(offset, length, wantZero));
  }

  /** Stops new requests and resolves when none is in flight. Undone by resume(); calls nest. */
  quiesce(): MaybePromise<void> {
    this.#quiesced++;
    return this.#inFlight === 0 ? undefined : new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  resume(): void {
    if (--this.#quiesced === 0) for (const wake of this.#resumeWaiters.splice(0)) wake();
  }

  /** Waits for requests in flight, flushes, and gives the node up. Rejects if anything could not be made durable. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#inFlight > 0) await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
    await this.#release(this);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #counted<T>(request: () => MaybePromise<T>): MaybePromise<T> {
    if (this.#quiesced !== 0) return this.#afterDrain(() => this.#counted(request));
    this.#inFlight++;
    let result: MaybePromise<T>;
    try {
      result = request();
    } catch (error) {
      return this.#failed(error);
    }
    if (isPromise(result)) return result.then((value) => { this.#finished(); return value; }, this.#failed);
    this.#finished();
    return result;
  }

  #afterDrain<T>(request: () => MaybePromise<T>): Promise<T> {
    return new Promise<void>((resolve) => this.#resumeWaiters.push(resolve)).then(request);
  }

  #checkRange(op: string, offset: number, length: number): void {
    if (this.#closed) throw new BlockError('CLOSED', 'The block device is closed', { op });
    if (!Number.isSafeInteger(offset) || offset < 0 || length < 0 || !Number.isSafeInteger(offset + length)
      || (offset + length > this.node.ops.size && !(this.allowWriteBeyondEnd && op === 'write'))) {
      throw new BlockError('OUT_OF_RANGE', systemError(Errno.EIO).message, { node: this.node.name, op, offset, length, errno: Errno.EIO });
    }
  }
}
