/** Rare abilities of a layer, asked for by name: `ops.facet('check')`. */
import type { MaybePromise } from '../util/maybe.js';
import type { BlockChild } from './child.js';
import type { DirtyBitmap } from './dirty-bitmap.js';
import type { OptionValue } from './options.js';

export interface Facets {
  readonly check: CheckFacet;
  readonly snapshots: SnapshotFacet;
  readonly bitmaps: BitmapFacet;
  readonly formatInfo: FormatInfoFacet;
  readonly backing: BackingFacet;
  readonly amend: AmendFacet;
  readonly descriptor: DescriptorFacet;
  readonly blkdebug: BlkdebugFacet;
  readonly vmState: VmStateFacet;
  readonly copyRange: CopyRangeFacet;
  readonly background: BackgroundFacet;
  readonly allocatedSize: AllocatedSizeFacet;
  readonly makeEmpty: MakeEmptyFacet;
  readonly identity: IdentityFacet;
  readonly diskDatabase: DiskDatabaseFacet;
  readonly rename: RenameFacet;
  readonly compact: CompactFacet;
  readonly rewrite: RewriteFacet;
  readonly folder: FolderFacet;
}

export interface CheckResult {
  corruptions: number;
  leaks: number;
  checkErrors: number;
  corruptionsFixed: number;
  leaksFixed: number;
  imageEndOffset?: number;
  /** In clusters. */
  totalClusters?: number;
  allocatedClusters?: number;
  fragmentedClusters?: number;
  compressedClusters?: number;
}
export interface CheckFacet {
  /** One line per finding goes to `report`, in the peer's words; `reportError` gets those that the peer shows as its own errors (after the program's name). */
  check(options: {
    readonly repair: 'none' | 'leaks' | 'all'; readonly report?: (line: string) => void; readonly reportError?: (line: string) => void;
    readonly signal?: AbortSignal;
    /** Finds and mends no more than the peer does. */
    readonly asPeer?: boolean;
  }): Promise<CheckResult>;
}

export interface InternalSnapshot {
  readonly id: string;
  readonly name: string;
  /** Bytes of saved VM state. */
  readonly vmStateSize: number;
  readonly diskSize: number;
  readonly dateSec: number;
  readonly dateNsec: number;
  readonly vmClockNs: bigint;
  /** Instruction count; undefined where not recorded. */
  readonly icount?: bigint;
}
export interface SnapshotFacet {
  list(): readonly InternalSnapshot[];
  /** Id is assigned by the format when absent. */
  create(snapshot: { readonly name: string; readonly id?: string; readonly vmStateSize?: number; readonly vmClockNs?: bigint; readonly icount?: bigint; readonly date?: Date }): Promise<InternalSnapshot>;
  apply(id: string): Promise<void>;
  delete(id: string): Promise<void>;
  /** Makes the (read-only) open image show the snapshot instead of the active layer. */
  load(id: string): Promise<void>;
}

export interface StoredBitmap {
  readonly name: string;
  readonly granularity: number;
  /** Flags as the format keeps them: 'in-use', 'auto'. */
  readonly flags: readonly string[];
  readonly inconsistent: boolean;
}
/** Persistence of dirty bitmaps. The live bitmap (DirtyBitmap) belongs to the node; this facet says whether it can be stored and lists what is. */
export interface BitmapFacet {
  /** False where the image as it is cannot hold bitmaps, though its format can. */
  readonly supported?: boolean;
  /** The node hands over its live bitmaps, once: those stored in the image are added, and the persistent ones there are stored when the layer closes or becomes read-only. */
  attach?(bitmaps: Map<string, DirtyBitmap>): void;
  list(): Promise<readonly StoredBitmap[]>;
  /** Whether a bitmap of that name and granularity can be stored; throws with the reason. */
  canStore?(name: string, granularity: number): Promise<void>;
  remove(name: string): Promise<void>;
}

export interface FormatInfoFacet {
  /** QAPI's ImageInfoSpecific: {type, data}; undefined where the format has none. Key names as in QAPI ('compat', 'lazy-refcounts'). */
  specific(): { readonly type: string; readonly data: Readonly<Record<string, OptionValue>> } | undefined;
  readonly clusterSize?: number;
  /** Granularity of allocation, where it is finer. */
  readonly subclusterSize?: number;
  /** Where VM state begins in the format's address space. */
  readonly vmStateOffset?: number;
  /** The image needs a check (dirty flag set). */
  readonly dirty?: boolean;
  readonly compressed?: boolean;
  /** All data must be written compressed, in whole clusters and in order. */
  readonly needsCompressedWrites?: boolean;
  readonly encrypted?: boolean;
  readonly corrupt?: boolean;
}

export interface BackingFacet {
  /** As stored in the image. */
  readonly filename: string | undefined;
  readonly format: string | undefined;
  /** Rewrites the reference; undefined filename removes it. Does not touch the open chain. `identity`: that of the new backing file, where it was looked at. */
  change(filename: string | undefined, format: string | undefined, identity?: IdentityFacet): Promise<void>;
  /** A reference changed without a look at the content (`rebase -u`) means the new backing file as it is now, not the former one that has moved. */
  readonly adoptsUnchecked?: boolean;
  /** Formats that record what an overlay was made for: throws, with the fault 'parent-changed', where the open backing file is something else. */
  verify?(): void;
  /**
   * Formats that record which content of the backing file is meant: what this session makes of it is meant, too. Durable when it
   * resolves. The image is open for writing.
   */
  expectChange?(): Promise<void>;
}

export interface AmendFacet {
  amend(options: Readonly<Record<string, OptionValue>>, control: { readonly progress?: (done: number, total: number) => void; readonly force?: boolean }): Promise<void>;
}

/** The layer's bytes lie plainly in this host file (sendfile, copy_file_range, mmap). */
export interface DescriptorFacet { readonly fd: number }

export interface BlkdebugFacet {
  /** The next request that passes `event` is held; `report` gets a line when that happens and when it goes on. Throws NOT_FOUND. */
  breakpoint(event: string, tag: string, report?: (line: string) => void): void;
  /** Lets requests held under the tag go on, too. Throws NOT_FOUND where no breakpoint has it any more. */
  removeBreakpoint(tag: string): void;
  /** Throws NOT_FOUND. */
  resume(tag: string): void;
  isSuspended(tag: string): boolean;
  whenSuspended(tag: string): Promise<void>;
}

/** VM state saved beside the guest disk, in its own address space from 0. */
export interface VmStateFacet {
  read(offset: number, target: Uint8Array): MaybePromise<void>;
  write(offset: number, source: Uint8Array): MaybePromise<void>;
}

export interface CopyRangeFacet {
  /** Host-side copy (reflink, copy_file_range) from another descriptor; resolves false where the host cannot. */
  copyFrom(source: DescriptorFacet, sourceOffset: number, offset: number, length: number): Promise<boolean>;
}

/**
 * Large writes may be done on another thread while their sender, who has more to do meanwhile, goes on. True: that thread does no more
 * than copy them, one after the other.
 */
export interface BackgroundFacet { allowBackgroundWrites(): boolean }

/** Bytes of host storage spent on this layer. */
export interface AllocatedSizeFacet { allocatedSize(): Promise<number> }

/** Drops everything this layer decides, so that the backing chain shows through (commit). */
export interface MakeEmptyFacet { makeEmpty(): Promise<void> }

/** What an overlay records of its parent, to know it again, in formats that do. */
export interface IdentityFacet {
  readonly id: Uint8Array;
  /** In the format's own count. */
  readonly timestamp?: number;
}

/** Where a file lies, independent of the working folder: an absolute path without links. */
export interface FolderFacet { readonly folder: string }

/** Named texts kept with the image, of no meaning to it. */
export interface DiskDatabaseFacet {
  entries(): ReadonlyMap<string, string>;
  /** Adds or changes an entry. Throws INVALID_ARGUMENT for keys that cannot be stored, NO_SPACE, PERMISSION. */
  set(key: string, value: string): Promise<void>;
}

/** An image whose files know each other's names. */
export interface RenameFacet {
  /**
   * What changes when the image is to be called `to`. An image that is one file says so at once, where that is of no consequence
   * under its old name. It is open for writing. Rejects INVALID_ARGUMENT.
   */
  renamed(to: string): Promise<RenamePlan>;
}
export interface RenamePlan {
  /** Old and new name of the files beside the image itself. */
  readonly moves: readonly (readonly [from: string, to: string])[];
  /** New content of the file `to`, where it is not that of the old one. */
  readonly content?: Uint8Array;
}

/** Writing an image's files anew, in the order of the disk and without what is not used. */
export interface CompactFacet {
  readonly files: readonly CompactFile[];
}
export interface CompactFile {
  readonly path: string;
  /** Guest bytes that it speaks of. */
  readonly size: number;
  /** Lays the same content on an empty target. `dropZeroes`: what reads as zero takes no space. Throws NOT_SUPPORTED where the file cannot be written anew. */
  write(target: BlockChild, control: {
    readonly dropZeroes: boolean; readonly progress?: (done: number) => void; readonly signal?: AbortSignal;
  }): Promise<void>;
}

/** Replaces all content of a file at once: whatever happens, it is the old one or the new one. */
export interface RewriteFacet { rewrite(content: Uint8Array): Promise<void> }
