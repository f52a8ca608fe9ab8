/**
 * What a driver author writes: a {@link BlockDriver} (the table) and a {@link BlockOps} (one open layer).
 *
 * Ops are called only by their node, which has already checked ranges and permissions, aligned and split the request and masked
 * the flags: input is trusted. Everyone else holds edges ({@link BlockChild}, {@link BlockBackend}).
 */
import type { MaybePromise } from '../util/maybe.js';
import type { BlockBackend, BlockChild } from './child.js';
import type { Facets } from './facets.js';
import type { UserObject } from './objects.js';
import type { CreateSchema, OptionSchema, OptionValue } from './options.js';
import type { ImageStream } from './stream.js';

/** Request flags. A request carries them as one number, so that handing it on allocates nothing. */
export const Req = {
  /** The data is durable when the request completes. */
  FUA: 1,
  /** writeZeroes may deallocate. */
  MAY_UNMAP: 2,
  /** writeZeroes fails with NOT_SUPPORTED rather than write a buffer of zeroes. */
  NO_FALLBACK: 4,
  /** The write does not change what the guest sees (copy-on-read, commit into place). */
  UNCHANGED: 8,
  /** Store the cluster compressed. */
  COMPRESSED: 16,
  /** Bring the data near; the target is scratch. */
  PREFETCH: 32,
  /** No overlapping request runs beside this one. */
  SERIALISING: 64,
} as const;

/** Permissions of an edge (bit numbers are also those of QEMU's byte-range locks). */
export const Perm = { CONSISTENT_READ: 1, WRITE: 2, WRITE_UNCHANGED: 4, RESIZE: 8, ALL: 15 } as const;

export type ChildRole = 'filtered' | 'image' | 'data' | 'metadata' | 'cow' | 'root';
export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full';

export interface BlockLimits {
  /** Requests reach ops as multiples of this many bytes; a power of two. */
  readonly requestAlignment: number;
  /** Longest read or write in bytes; 0 is unlimited. */
  readonly maxTransfer: number;
  readonly maxWriteZeroes: number;
  readonly maxDiscard: number;
  /** Natural granularity of writeZeroes and discard in bytes (0: requestAlignment). The node still passes unaligned head and tail, each as its own request. */
  readonly writeZeroesAlignment: number;
  readonly discardAlignment: number;
}
export const unlimited: BlockLimits = Object.freeze({
  requestAlignment: 1, maxTransfer: 0, maxWriteZeroes: 0, maxDiscard: 0, writeZeroesAlignment: 0, discardAlignment: 0,
});

export interface Capabilities {
  readonly write: boolean;
  /** Req flags that write() honours itself; FUA is emulated by a flush where missing. */
  readonly writeFlags: number;
  /** Req flags that writeZeroes() honours; undefined where the driver has no writeZeroes (the node then writes a zero buffer). */
  readonly zeroFlags: number | undefined;
  readonly discard: boolean;
  /** 'any' grows and shrinks. */
  readonly resize: 'none' | 'grow' | 'any';
  /** write() past `size` extends the layer by itself (files do). */
  readonly growsOnWrite: boolean;
  /** What resize() adds reads as noise, unless it is asked for zeroes (encrypted volumes). */
  readonly growsNoise?: boolean;
}
export const readOnlyCapabilities: Capabilities = Object.freeze({
  write: false, writeFlags: 0, zeroFlags: undefined, discard: false, resize: 'none', growsOnWrite: false,
});

/** A place in a child. */
export interface HostRange { readonly child: BlockChild; readonly offset: number }

/**
 * One layer's answer for a range, covering at least one byte and at most what was asked.
 * - `data`: read it here. `host` where the bytes lie plainly in a child; none where they are encoded (compressed, encrypted).
 *   `recurse`: the child may know more (a preallocated range that is a hole below). `zero`: stored, and known to be zeroes.
 *   `hole`: takes no storage, yet what it reads as is not known.
 * - `zero`: reads as zero. `allocated`: decided by this layer. `host`: space reserved for it.
 * - `backing`: the cow child decides; zero where there is none. `host` as for zero.
 * - `child`: a passthrough layer (filter, raw): whatever `host` says.
 */
export type LayerExtent =
  | {
    readonly kind: 'data'; readonly length: number; readonly host?: HostRange; readonly recurse?: boolean; readonly compressed?: boolean;
    readonly zero?: boolean; readonly hole?: boolean;
  }
  | { readonly kind: 'zero'; readonly length: number; readonly allocated: boolean; readonly host?: HostRange }
  | { readonly kind: 'backing'; readonly length: number; readonly host?: HostRange }
  | { readonly kind: 'child'; readonly length: number; readonly host: HostRange };

export interface ResizeOptions {
  readonly preallocation: Preallocation;
  /** The new size must be reached exactly; without it a protocol may leave more. */
  readonly exact: boolean;
  /** The added range must read as zero (an overlay's backing file may be longer). */
  readonly zeroNew: boolean;
  /** Looked at between steps that take long. The size is the former one where it ended the operation. */
  readonly signal?: AbortSignal;
}

/** One open layer. */
export abstract class BlockOps {
  /** Virtual size in bytes. May change by resize() and, with growsOnWrite, by write(). */
  abstract readonly size: number;
  readonly limits: BlockLimits = unlimited;
  /** What the node says, with the reason, where resize() asks for more than anyone can count. */
  readonly growthFailure: string = 'Could not resize file';
  abstract readonly capabilities: Capabilities;

  /** Fills target or fails. Past `size` is never asked. */
  abstract read(offset: number, target: Uint8Array, flags: number): MaybePromise<void>;
  write(_offset: number, _source: Uint8Array, _flags: number): MaybePromise<void> { throw unreachable('write'); }
  writeZeroes(_offset: number, _length: number, _flags: number): MaybePromise<void> { throw unreachable('writeZeroes'); }
  discard(_offset: number, _length: number): MaybePromise<void> { throw unreachable('discard'); }
  /** Everything acknowledged is durable, in this layer and below: a format writes back its metadata in order and flushes its children. */
  flush(): MaybePromise<void> { return undefined; }
  /** This layer only. `wantZero` false: the caller needs just allocation, a cheap answer will do. */
  abstract status(offset: number, length: number, wantZero: boolean): MaybePromise<LayerExtent>;
  resize(_size: number, _options: ResizeOptions): Promise<void> { throw unreachable('resize'); }

  /** The layer's own background work stops (after the node's last request) and may start again. */
  drainBegin(): MaybePromise<void> { return undefined; }
  drainEnd(): void {}
  /**
   * Called with the union of what all edges on this node take and the intersection of what they share (Perm bits) before a change
   * takes effect. Throws to refuse, leaving the former state.
   */
  setPermissions(_take: number, _share: number): void {}
  /** Refines what the edge to a child takes and shares (Perm bits), given what its role makes of it. */
  childPermissions?(name: string, wanted: { readonly take: number; readonly share: number }): { readonly take: number; readonly share: number };
  /** A named moment inside a parent (blkdebug implements it); undefined: go on. */
  debugEvent?(event: string): Promise<void> | undefined;
  /** Changes access in place; absent: the layer cannot. The node has drained it. */
  reopen?(change: { readonly readOnly: boolean; /** Changed `mutable` options, typed. */ readonly options?: Readonly<Record<string, OptionValue>> }): Promise<void>;

  /** Rare abilities; undefined where the driver lacks them. */
  facet<K extends keyof Facets>(_name: K): Facets[K] | undefined { return undefined; }
  /** The filename that alone reopens this layer; undefined where options are needed (the node then shows json:{…}). */
  filename(): string | undefined { return undefined; }
  /** Writes back what is pending (unless the layer was read-only) and gives up resources. Children are closed by the node. */
  abstract close(): Promise<void>;
}

function unreachable(op: string): Error {
  return new Error(`${op} called on a layer whose capabilities exclude it`);
}

/** A file that an image names and no user typed. Every one passes the gate. */
export interface ImplicitReference {
  readonly kind: 'backing' | 'data-file' | 'extent';
  /** As found in the image, empty where it names none (the user may still give one); relative names are resolved against the image's folder by the graph. */
  readonly filename: string;
  /** The name is a path, never a URL, whatever it looks like. */
  readonly isPath?: boolean;
  /** Driver named by the image; undefined: it must be probed, which the gate may refuse. */
  readonly format?: string;
  readonly role: ChildRole;
  /** It is only read, whatever is done with the image. */
  readonly readOnly?: boolean;
}

/** A child to be made. */
export interface NewFile { readonly name: string; readonly reference: ImplicitReference }

/** Switches of an open that no driver option expresses. */
export interface OpenMode {
  /** Leave out the backing chain (the cow child stays undefined; unallocated reads as zero). */
  readonly noBacking: boolean;
  /** The image is opened to be checked or repaired: damage that check can describe must not fail the open. */
  readonly check: boolean;
  /** Opened for information only: no I/O on guest data will follow. */
  readonly noIo: boolean;
  /** The format was guessed from content, not named by anyone. */
  readonly probed: boolean;
  /** An image opened read-only whose log holds changes that did not reach their places is refused rather than shown with them. */
  readonly refuseLog?: boolean;
  /** Compressed clusters may be written to an encrypted image, although they are stored in the clear. */
  readonly plainCompressed?: boolean;
}

export interface OpenContext<O> {
  readonly nodeName: string;
  readonly options: O;
  readonly readOnly: boolean;
  readonly mode: OpenMode;
  readonly signal?: AbortSignal;
  /** Child declared by the driver and opened beforehand from the user's options. */
  child(name: string): BlockChild | undefined;
  /**
   * Opens (through the gate) a file the image names, merged with options the user gave for it; undefined where the user detached
   * it (`backing: null`) or mode.noBacking holds for a backing reference.
   */
  implicitChild(name: string, reference: ImplicitReference): Promise<BlockChild | undefined>;
  /**
   * Makes further files of the image, none of which may exist, for `use` to lay them out and name them in the image; where that
   * fails, or `signal` comes while they are made, they go again. A note beside the image tells whoever cleans up after a crash to remove them unless the image names them.
   */
  newFiles(wanted: readonly NewFile[], use: (children: readonly BlockChild[]) => MaybePromise<void>, signal?: AbortSignal): Promise<void>;
  /** Named moment ('l2_update') at which a blkdebug below may fail or hold the caller. Undefined at once where there is none. */
  debugPoint(event: string): Promise<void> | undefined;
  /** Name of the format that a file starting with these bytes would be taken for. */
  probe(head: Uint8Array): string;
  /** An object that an option names by id ('tls-creds'). */
  object(id: string): UserObject | undefined;
  warn(message: string): void;
  /** A line for people that belongs to no request: damage found on the way ('note', shown as it is), or a failure nobody waits for ('error'). */
  report(line: string, kind: 'note' | 'error'): void;
}

export interface CreateContext {
  /** Creates another file that belongs to the image (an external data file), empty, and opens it for writing. */
  createFile(filename: string): Promise<BlockBackend>;
  /** Filename of the target as the user gave it. */
  readonly filename: string;
  /** Resolves with the image's format driver opened on `target`, e.g. to preallocate through the ordinary write path. Close it before returning. */
  openTarget(options?: Record<string, unknown>): Promise<BlockBackend>;
  /** Resolves with the image that the user wants the new one to stand on, open for reading: for what a child records of its parent. Close it before returning. */
  openBacking(filename: string, format: string | undefined): Promise<BlockBackend>;
  /** An object that an option names by id (a secret). */
  object(id: string): UserObject | undefined;
  readonly signal?: AbortSignal;
  warn(message: string): void;
}

export interface MeasureResult {
  readonly required: number;
  readonly fullyAllocated: number;
  /** Space for persistent bitmaps of the source, where the target format can hold them. */
  readonly bitmaps?: number;
}

/**
 * 'thorough-check': finding damage that the peer does not look for, and mending; 'repair': any mending.
 * 'encrypted-only': refusing to store compressed data in the clear in an encrypted image.
 * 'log-overlay': reading, without writing to it, an image whose log holds changes that did not reach their places.
 * 'dirty-flag': telling that an image was not closed.
 */
export type PeerLack = 'check' | 'dirty-flag' | 'encrypted-only' | 'thorough-check' | 'repair' | 'measure' | 'rebase' | 'resize' | 'log-overlay';

/** What a protocol can do with files by their names. */
export interface FolderOperations {
  exists(filename: string): Promise<boolean>;
  /** Names in a folder, without it. */
  list(folder: string): Promise<readonly string[]>;
  /** Gives a file a further name; where the host has no such thing, its only one. Rejects ALREADY_EXISTS. */
  link(filename: string, name: string): Promise<void>;
  /** `write` makes the new content in another file, which then takes the place of the old one at once, with its owner and permissions. */
  replace(filename: string, write: (temporary: string) => Promise<void>): Promise<void>;
}

export interface BlockDriver<O extends object = object> {
  /** The QAPI name: 'qcow2', 'nbd', 'copy-on-read'. */
  readonly name: string;
  readonly kind: 'protocol' | 'format' | 'filter';
  /** Options of open; one schema serves json:{}, --image-opts, help and types. */
  readonly options: OptionSchema<O>;
  /** Options of create, under QEMU's -o names; absent: cannot be created. */
  readonly createOptions?: CreateSchema;
  /** Options of amend, under QEMU's -o names; absent: cannot be amended. */
  readonly amendOptions?: CreateSchema;
  readonly children: Readonly<Record<string, {
    readonly role: ChildRole;
    readonly optional?: boolean;
    /** A list of them, each linked as `name.index`. */
    readonly many?: boolean;
    /** A bare filename given for it is an image whose format is guessed, not a file. */
    readonly probed?: boolean;
  }>>;
  /** Protocol prefixes this driver answers to ('nbd', 'nbd+unix'); file names of the form `prefix:…`. */
  readonly protocolPrefixes?: readonly string[];
  /** Options that a `prefix:…` filename stands for. Throws INVALID_ARGUMENT with the peer's text. */
  parseFilename?(filename: string): Record<string, unknown>;
  /** Protocols: whether a filename without prefix names what only this driver opens (a device); others go to `file`. */
  claims?(filename: string): boolean;
  /** 0 no … 100 certain; sees bytes, nothing else. */
  probe?(head: Uint8Array, filename: string): number;
  /** Formats: overlays can be made of it (info, create -b, rebase). */
  readonly supportsBacking?: boolean;
  /** What QEMU cannot do with the format: its tools' names hide it, so that scripts see what they know. */
  readonly beyondPeer?: readonly PeerLack[];
  /** Formats: whether a new image made with these create options reads as zero; undefined: as far as its file does, or it allocates nothing. */
  newReadsAsZero?(options: Readonly<Record<string, OptionValue>>): boolean | undefined;
  /** Formats: options to open a new image with that is filled from front to end. */
  readonly fillOptions?: Readonly<Record<string, string>>;
  /** Formats: clusters can be written compressed (Req.COMPRESSED). */
  readonly supportsCompression?: boolean;
  /** Formats: dirty bitmaps can be stored with the image. */
  readonly supportsBitmaps?: boolean;
  /** Protocols: a file that createFile() made reads as zero when it is grown. */
  readonly createsZeroed?: boolean;
  /** Rejects NOT_THIS_FORMAT | UNSUPPORTED_FEATURE | CORRUPT_IMAGE; leaves nothing open. */
  open(context: OpenContext<O>): MaybePromise<BlockOps>;
  /** Protocols: makes the empty (or truncated) file that a format is then written to. */
  createFile?(filename: string, options: Readonly<Record<string, OptionValue>>): Promise<void>;
  /** Protocols: removes it. */
  deleteFile?(filename: string): Promise<void>;
  readonly folders?: FolderOperations;
  /** Formats: refuses create options that make no sense, or a name, before a file is touched. @throws BlockError INVALID_ARGUMENT */
  checkCreate?(options: Readonly<Record<string, OptionValue>> & { readonly size: number }, filename: string): MaybePromise<void>;
  /** Formats: lays an empty image of `options.size` bytes on target, which is empty. */
  create?(target: BlockBackend, options: Readonly<Record<string, OptionValue>> & { readonly size: number }, context: CreateContext): Promise<void>;
  /** Formats: a new image that holds what source shows, as bytes in a row. Options as for create. */
  stream?(source: BlockBackend, options: Readonly<Record<string, OptionValue>>): Promise<ImageStream>;
  /** Formats: space a new image would take for `size` bytes or for source's content (which wins). */
  measure?(source: BlockChild | undefined, options: Readonly<Record<string, OptionValue>> & { readonly size?: number }): Promise<MeasureResult>;
}
