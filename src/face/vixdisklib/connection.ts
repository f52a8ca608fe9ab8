/** A connection: to this host, or to a server. */
import { lstatSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { BlockBackend } from '../../block/child.js';
import { placeOf } from '../../block/filename.js';
import { checkImage } from '../../image/check.js';
import { removeImage, renameImage } from '../../image/files.js';
import { resizeImage } from '../../image/resize.js';
import type { ConnectParameters } from './connect-params.js';
import { OpenFlags, SECTOR_SIZE, type TransportMode } from './constants.js';
import type { LibraryContext } from './context.js';
import { Disk } from './disk.js';
import { preallocationOf } from './disk-types.js';
import { guarded, transferFailure, VixError } from './errors.js';
import { describeDisk, links } from './info.js';
import { cloneDisk, copyOnto, createDisk, localPath, type CloneParams, type CreateParams } from './making.js';
import { diskFailure, driverOf, fileSpec, formatOfName, isReadOnly, openLocal, openRemote } from './opening.js';
import { controlled, throwIfCancelled, type LongOperation } from './progress.js';
import { toBytes, type Sectors } from './sectors.js';

export interface ConnectionInit {
  readonly context: LibraryContext;
  /** undefined: this host. */
  readonly params: ConnectParameters | undefined;
  readonly readOnly: boolean;
  readonly snapshotRef: string | undefined;
  readonly modes: readonly TransportMode[];
  /** Id of the credentials for nbdssl. */
  readonly credentials: string;
  readonly closed: (connection: Connection) => void;
}

export interface OpenDiskOptions {
  /** {@link OpenFlags} joined; 0 by default. */
  readonly flags?: number | undefined;
  /** The engine's name of the format, for files of this host whose name does not end in .vmdk; without it the file is looked at. Beyond VDDK. */
  readonly format?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface CheckReport {
  /** Damage that is (still) there. */
  readonly corruptions: number;
  /** Space that nothing refers to. */
  readonly leaks: number;
  /** What was put right. */
  readonly repaired: number;
  /** A line for each finding. */
  readonly findings: readonly string[];
}

const knownFlags = Object.values(OpenFlags).reduce((all, flag) => all | flag, 0);
const compression = [OpenFlags.COMPRESSION_ZLIB, OpenFlags.COMPRESSION_FASTLZ, OpenFlags.COMPRESSION_SKIPZ] as const;

/** Closes its disks with itself. After that everything is refused with VIX_E_DISK_INVALID_CONNECTION. */
export class Connection {
  readonly #init: ConnectionInit;
  readonly #disks = new Set<Disk>();
  #connected = true;

  constructor(init: ConnectionInit) {
    this.#init = init;
  }

  /** As given, checked; undefined for this host. VixDiskLib_GetConnectParams, since VDDK 5.0. */
  get params(): ConnectParameters | undefined {
    return this.#init.params;
  }

  /** Disks are those of a server. */
  get remote(): boolean {
    return this.#init.params?.serverName !== undefined;
  }

  /** Nothing can be written over it. */
  get readOnly(): boolean {
    return this.#init.readOnly;
  }

  /**
   * Opens a disk, for reading and writing unless the flags say READ_ONLY. VixDiskLib_Open, since VDDK 1.0.
   * @param path absolute; on servers the name of an export, or `[store] folder/disk.vmdk`
   * @throws VixError VIX_E_FILE_NOT_FOUND, VIX_E_FILE_ACCESS_ERROR, VIX_E_FILE_ALREADY_LOCKED where somebody writes it (or uses it, and it
   * is to be written), VIX_E_FILE_READ_ONLY where the connection is for reading; VIX_E_INCORRECT_FILE_TYPE, VIX_E_DISK_INVALIDDISK,
   * VIX_E_DISK_NOTSUPPORTED for what it finds; VIX_E_DISK_OPENPARENT, VIX_E_DISK_PARENT_NOTALLOWED, VIX_E_DISK_CID_MISMATCH for its
   * parents; VIX_E_DISK_NEEDSREPAIR; VIX_E_HOST_… where a server cannot be reached or refuses, VIX_E_AUTHENTICATION_FAIL where its
   * certificate is another
   */
  async open(path: string, options: OpenDiskOptions = {}): Promise<Disk> {
    this.#assertConnected();
    const { flags = 0, signal } = options;
    if (signal) throwIfCancelled(signal);
    this.#checkFlags(flags, path);
    const { backend, mode } = await this.#openBackend(path, flags, options);
    const disk = new Disk({
      context: this.#init.context, backend, path, flags, transportMode: mode, closed: (gone) => this.#disks.delete(gone),
      reopen: async (again) => (await this.#openBackend(path, again, options)).backend,
    });
    this.#disks.add(disk);
    this.#init.context.logger.log(`opened ${path} by ${mode}`);
    return disk;
  }

  /**
   * Makes an empty disk. VixDiskLib_Create, since VDDK 1.0.
   * @throws VixError VIX_E_FILE_ALREADY_EXISTS, VIX_E_INVALID_ARG, VIX_E_DISK_FULL, VIX_E_CANCELLED, VIX_E_NOT_SUPPORTED_ON_REMOTE_OBJECT
   */
  async create(path: string, params: CreateParams, control: LongOperation = {}): Promise<void> {
    this.#assertLocal(path);
    await createDisk(this.#init.context, localPath(path), params, control);
  }

  /**
   * Copies a disk with all its parents, converting it on the way. On a server the destination exists and `createParams` mean nothing.
   * VixDiskLib_Clone, since VDDK 1.0.
   * @throws VixError VIX_E_FILE_ALREADY_EXISTS unless `overwrite`; VIX_E_CANCELLED; VIX_E_DISK_FULL; those of open()
   */
  async clone(path: string, source: Connection, sourcePath: string, params: CloneParams = {}): Promise<void> {
    this.#assertConnected();
    this.#assertWritable(path);
    await using disk = await source.open(sourcePath, { flags: OpenFlags.READ_ONLY, signal: params.signal });
    const { context } = this.#init;
    try {
      if (!this.remote) return await cloneDisk(context, disk.backend, localPath(path), params);
      await copyOnto(context, disk.backend, async () => (await this.#openBackend(path, 0, {})).backend, params);
    } catch (error) {
      throw this.remote ? transferFailure(error, path) : diskFailure(error, path);
    }
  }

  /**
   * Makes a disk larger; `capacity` is that of the whole, in sectors. Flat disks, but for thin ones, take their new space at once.
   * VixDiskLib_Grow, since VDDK 1.0.
   * @param updateGeometry what the disk says of its cylinders grows with it
   * @throws VixError VIX_E_INVALID_ARG where it would not become larger or this library has it open, VIX_E_DISK_NOTNORMAL where it is a
   * child, VIX_E_DISK_FULL, after which the disk is as before
   */
  async grow(path: string, capacity: Sectors, updateGeometry = true, control: LongOperation = {}): Promise<void> {
    this.#assertLocal(path);
    const size = toBytes(capacity, 'the capacity');
    if ([...this.#disks].some((disk) => disk.path === path)) throw new VixError('VIX_E_INVALID_ARG', 'the disk is open', { path });
    await this.#onFile(path, () => controlled(control, async ({ signal }) => {
      await using image = await this.#init.context.graph.openBackend(fileSpec(localPath(path)), { gate: this.#init.context.gate, noBacking: true });
      if (image.facet('backing')?.filename !== undefined) throw new VixError('VIX_E_DISK_NOTNORMAL', 'only a disk without parents can grow', { path });
      if (size <= image.size) throw new VixError('VIX_E_INVALID_ARG', `the disk has ${image.size / SECTOR_SIZE} sectors already`, { path });
      const database = image.facet('diskDatabase');
      const geometry = [...database?.entries() ?? []].filter(([key]) => /^geometry\.(bios)?cylinders$/i.test(key));
      await resizeImage(image, { size, preallocation: preallocationOf(describeDisk(image.node).diskType), shrink: false, signal });
      if (!updateGeometry) for (const [key, cylinders] of geometry) await database?.set(key, cylinders);
    }));
  }

  /**
   * Gives a disk, with all its files, another name. VixDiskLib_Rename, since VDDK 1.0.
   * @throws VixError VIX_E_FILE_ALREADY_EXISTS, VIX_E_FILE_NOT_FOUND, VIX_E_FILE_ALREADY_LOCKED
   */
  async rename(from: string, to: string): Promise<void> {
    this.#assertLocal(from);
    await this.#onFile(from, () => renameImage(this.#init.context.graph, localPath(from), localPath(to), driverOf(from)));
  }

  /**
   * Removes one disk with all its files. Its children, which cannot be opened any more, are told in the log and returned.
   * VixDiskLib_Unlink, since VDDK 1.0.
   * @throws VixError VIX_E_FILE_NOT_FOUND, VIX_E_FILE_ALREADY_LOCKED
   */
  async unlink(path: string): Promise<{ readonly orphans: readonly string[] }> {
    this.#assertLocal(path);
    const orphans = await guarded(path, () => this.#childrenOf(localPath(path)));
    await this.#onFile(path, () => removeImage(this.#init.context.graph, path, driverOf(path)));
    for (const orphan of orphans) this.#init.context.logger.warn(`${orphan} has lost its parent ${path}`);
    return { orphans };
  }

  /**
   * Checks the tables of one disk (not of its parents) and, if asked, repairs them. VixDiskLib_CheckRepair, since VDDK 5.0.
   * @throws VixError VIX_E_DISK_CANTREPAIR where damage remains after a repair, VIX_E_FILE_NOT_FOUND, VIX_E_FILE_ALREADY_LOCKED
   */
  async checkRepair(path: string, repair: boolean, control: LongOperation = {}): Promise<CheckReport> {
    this.#assertLocal(path, repair);
    const findings: string[] = [];
    const { graph, gate, logger } = this.#init.context;
    const result = await this.#onFile(path, () => controlled(control, async ({ signal }) => {
      await using image = await graph.openBackend(fileSpec(localPath(path)), { readOnly: !repair, noBacking: true, check: true, gate });
      if (image.facet('check') === undefined) return undefined;
      return await checkImage(image.node, { repair: repair ? 'all' : 'none', signal, report: (line) => findings.push(line), reportError: (line) => findings.push(line) });
    }));
    for (const finding of findings) logger.warn(`${path}: ${finding}`);
    const report = {
      corruptions: result?.corruptions ?? 0, leaks: result?.leaks ?? 0, repaired: (result?.corruptionsFixed ?? 0) + (result?.leaksFixed ?? 0), findings,
    };
    if (repair && report.corruptions > 0) throw new VixError('VIX_E_DISK_CANTREPAIR', `${report.corruptions} faults remain`, { path });
    return report;
  }

  /** Closes all disks of the connection, and it. Harmless when done twice. VixDiskLib_Disconnect, since VDDK 1.0. */
  async disconnect(): Promise<void> {
    if (!this.#connected) return;
    this.#connected = false;
    const failures: unknown[] = [];
    for (const disk of [...this.#disks]) await disk.close().catch((error: unknown) => failures.push(error));
    this.#init.closed(this);
    if (failures.length > 0) throw failures[0];
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.disconnect();
  }

  async #openBackend(path: string, flags: number, { format, signal }: OpenDiskOptions): Promise<{ readonly backend: BlockBackend; readonly mode: TransportMode }> {
    const { context, params, modes, snapshotRef, credentials } = this.#init;
    if (params !== undefined && this.remote) {
      return openRemote(context.graph, path, { params, modes, snapshot: snapshotRef, flags, credentials, log: (message) => context.logger.log(message, 'transport'), signal });
    }
    const { gate, resolveParent, graph } = context;
    return { backend: await openLocal(graph, localPath(path), { gate, flags, format, resolveParent, signal }), mode: 'file' };
  }

  #checkFlags(flags: number, path: string): void {
    if (!Number.isInteger(flags) || (flags & ~knownFlags) !== 0) throw new VixError('VIX_E_INVALID_ARG', `flags ${flags}`, { path });
    const kinds = compression.filter((kind) => (flags & kind) !== 0);
    if (kinds.length > 1) throw new VixError('VIX_E_INVALID_ARG', 'there is one kind of compression at a time', { path });
    if (kinds.length > 0 && !this.remote) throw new VixError('VIX_E_NOT_SUPPORTED', 'only transfers from servers can be compressed', { path });
    if (kinds.length > 0) this.#init.context.logger.warn('NBD servers do not compress: transfers go as they are', 'transport');
    if (!isReadOnly(flags)) this.#assertWritable(path);
  }

  #assertConnected(): void {
    if (!this.#connected) throw new VixError('VIX_E_DISK_INVALID_CONNECTION', 'it was disconnected');
  }

  #assertWritable(path: string): void {
    if (this.readOnly) throw new VixError('VIX_E_FILE_READ_ONLY', 'the connection is for reading', { path });
  }

  #assertLocal(path: string, writes = true): void {
    this.#assertConnected();
    if (this.remote) throw new VixError('VIX_E_NOT_SUPPORTED_ON_REMOTE_OBJECT', undefined, { path });
    if (writes) this.#assertWritable(path);
  }

  /** Something done to a file of this host that nobody has open. */
  async #onFile<T>(path: string, work: () => Promise<T>): Promise<T> {
    const end = this.#init.context.journal.begin(dirname(path), path);
    if (end === undefined) throw new VixError('VIX_E_OBJECT_IS_BUSY', undefined, { path });
    try {
      return await work();
    } catch (error) {
      throw diskFailure(error, path);
    } finally {
      end();
    }
  }

  /** Disks of the same folder that name this one as their parent. */
  async #childrenOf(path: string): Promise<readonly string[]> {
    const folder = dirname(path);
    const children: string[] = [];
    const names = lstatSync(folder, { throwIfNoEntry: false })?.isDirectory() ? readdirSync(folder) : [];
    for (const name of names.filter((each) => formatOfName(each) !== undefined)) {
      const file = join(folder, name);
      if (file !== path && await this.#parentOf(file) === path) children.push(file);
    }
    return children;
  }

  /** undefined for what is no child, or no disk at all. */
  async #parentOf(path: string): Promise<string | undefined> {
    const { graph, gate } = this.#init.context;
    try {
      await using image = await graph.openBackend(fileSpec(path), { readOnly: true, forceShare: true, gate });
      const [, parent] = links(image.node);
      return parent && placeOf(parent);
    } catch {
      return undefined;
    }
  }
}
