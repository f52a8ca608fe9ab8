/** An open export as a layer of the graph. */
import { BlockOps, Req, type BlockLimits, type Capabilities, type LayerExtent, type ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { Command, CommandFlag, MAX_PAYLOAD, StatusFlag, TransmissionFlag } from '../../wire/nbd/constants.js';
import type { NegotiatedExport } from '../../wire/nbd/negotiate.js';
import type { Link } from './link.js';
import { NbdRequest } from './request.js';

/** Longest zeroing, trim or status request where lengths have 32 bits. */
const maxRange = 2 ** 30;
const sectorSize = 512;

export class NbdOps extends BlockOps {
  readonly size: number;
  override readonly limits: BlockLimits;
  readonly capabilities: Capabilities;
  readonly #links: readonly Link[];
  readonly #flags: number;
  readonly #name: string;
  readonly #hasStatus: boolean;
  #turn = 0;

  /** @param context metadata context that answers status, if the server agreed to it */
  constructor(links: readonly Link[], readOnly: boolean, name: string, context: string) {
    super();
    const { info } = links[0]!;
    this.#links = links;
    this.#flags = info.flags;
    this.#name = name;
    this.#hasStatus = info.contexts.has(context);
    this.size = info.size;
    this.limits = limitsOf(info, this.#hasStatus);
    this.capabilities = capabilitiesOf(info.flags, readOnly);
  }

  read(offset: number, target: Uint8Array, flags: number): Promise<void> {
    if ((flags & Req.PREFETCH) !== 0 && (this.#flags & TransmissionFlag.SEND_CACHE) !== 0) {
      return this.#submit(new NbdRequest(Command.CACHE, 0, offset, target.length));
    }
    return this.#submit(new NbdRequest(Command.READ, 0, offset, target.length, target));
  }

  override write(offset: number, source: Uint8Array, flags: number): Promise<void> {
    return this.#submit(new NbdRequest(Command.WRITE, (flags & Req.FUA) !== 0 ? CommandFlag.FUA : 0, offset, source.length, undefined, source));
  }

  override writeZeroes(offset: number, length: number, flags: number): Promise<void> {
    const wire = ((flags & Req.FUA) !== 0 ? CommandFlag.FUA : 0) | ((flags & Req.MAY_UNMAP) !== 0 ? 0 : CommandFlag.NO_HOLE)
      | ((flags & Req.NO_FALLBACK) !== 0 ? CommandFlag.FAST_ZERO : 0);
    return this.#submit(new NbdRequest(Command.WRITE_ZEROES, wire, offset, length));
  }

  override discard(offset: number, length: number): Promise<void> {
    return this.#submit(new NbdRequest(Command.TRIM, 0, offset, length));
  }

  /** With several connections the server has promised that one flush covers all. */
  override flush(): Promise<void> | undefined {
    if ((this.#flags & TransmissionFlag.SEND_FLUSH) === 0) return undefined;
    return this.#submit(new NbdRequest(Command.FLUSH, 0, 0, 0));
  }

  status(offset: number, length: number): LayerExtent | Promise<LayerExtent> {
    if (!this.#hasStatus) return { kind: 'data', length };
    const request = new NbdRequest(Command.BLOCK_STATUS, CommandFlag.REQ_ONE, offset, Math.min(length, this.limits.maxDiscard || length));
    return this.#submit(request).then(() => this.#extent(request.statusFlags, Math.min(request.statusLength, length)));
  }

  override resize(size: number, options: ResizeOptions): Promise<void> {
    if (options.exact && size !== this.size) return Promise.reject(notSupported('Cannot resize NBD nodes'));
    if (size > this.size) return Promise.reject(notSupported('Cannot grow NBD nodes'));
    return Promise.resolve();
  }

  override filename(): string { return this.#name; }

  close(): Promise<void> {
    for (const link of this.#links) link.close();
    return Promise.resolve();
  }

  /** As the peer does, flags of any context are read like those of `base:allocation`. */
  #extent(flags: number, length: number): LayerExtent {
    const hole = (flags & StatusFlag.HOLE) !== 0;
    const zero = (flags & StatusFlag.ZERO) !== 0;
    if (hole && zero) return { kind: 'zero', length, allocated: true };
    return { kind: 'data', length, ...(hole && { hole }), ...(zero && { zero }) };
  }

  #submit(request: NbdRequest): Promise<void> {
    this.#nextLink().submit(request);
    return request.done;
  }

  /** In turns, leaving out those that have lost their server while another has not. */
  #nextLink(): Link {
    const links = this.#links;
    for (let tries = links.length; tries > 0; tries--) {
      this.#turn = (this.#turn + 1) % links.length;
      const link = links[this.#turn]!;
      if (link.alive) return link;
    }
    return links[this.#turn]!;
  }
}

function limitsOf(info: NegotiatedExport, hasStatus: boolean): BlockLimits {
  const { blockSizes, size } = info;
  // A server that says nothing may be so old that it knows sectors only; status and odd sizes show that it is not.
  const alignment = blockSizes?.minimum ?? (hasStatus || size % sectorSize !== 0 ? 1 : sectorSize);
  const maxTransfer = Math.min(MAX_PAYLOAD, blockSizes?.maximum ?? MAX_PAYLOAD);
  const range = info.style === 'extended' ? 0 : maxRange;
  const preferred = blockSizes?.preferred ?? 0;
  return Object.freeze({
    requestAlignment: alignment, maxTransfer: maxTransfer - (maxTransfer % alignment), maxWriteZeroes: range, maxDiscard: range,
    writeZeroesAlignment: preferred, discardAlignment: preferred,
  });
}

function capabilitiesOf(flags: number, readOnly: boolean): Capabilities {
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const fua = has(TransmissionFlag.SEND_FUA) ? Req.FUA : 0;
  const fast = has(TransmissionFlag.SEND_FAST_ZERO) ? Req.NO_FALLBACK : 0;
  return Object.freeze({
    write: !readOnly && !has(TransmissionFlag.READ_ONLY),
    writeFlags: fua,
    zeroFlags: has(TransmissionFlag.SEND_WRITE_ZEROES) ? fua | fast | Req.MAY_UNMAP : undefined,
    discard: has(TransmissionFlag.SEND_TRIM),
    // Refused in the driver's own words.
    resize: 'any',
    growsOnWrite: false,
  });
}

function notSupported(message: string): BlockError {
  return new BlockError('NOT_SUPPORTED', message, { driver: 'nbd', op: 'resize', errno: Errno.ENOTSUP });
}
