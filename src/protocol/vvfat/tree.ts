/** A folder of the host laid out as clusters. */
import type { Dirent } from 'node:fs';
import { promises } from 'node:fs';
import { join } from 'node:path';
import { BlockError } from '../../block/errors.js';
import { sectorSize, type FatGeometry } from './geometry.js';
import { Attribute, directoryEntries, entrySize, shortName } from './names.js';

export interface HostEntry {
  readonly path: string;
  readonly name: string;
  readonly directory: boolean;
  readonly size: number;
  readonly modified: Date;
  readonly children: HostEntry[];
}

/** Clusters in a row and what they hold. */
export type Extent = {
  readonly firstCluster: number;
  readonly clusters: number;
} & ({ readonly kind: 'directory'; readonly bytes: Uint8Array } | { readonly kind: 'file'; readonly path: string; readonly offset: number; readonly size: number });

const mostEntries = 1_000_000;
const longestFile = 2 ** 32 - 1;
/** A volume label takes the first entry of the root directory. */
const labelEntries = 1;

/** Files and folders below `dir`, links followed; what is neither is left out. In the order of their names. */
export async function scan(dir: string): Promise<HostEntry> {
  let count = 0;
  const list = async (path: string, above: readonly string[]): Promise<HostEntry[]> => {
    const real = await promises.realpath(path);
    if (above.includes(real)) throw new BlockError('INVALID_ARGUMENT', `Folder ${path} contains itself`);
    const entries: HostEntry[] = [];
    const names = (await promises.readdir(path, { withFileTypes: true })).map((entry: Dirent) => entry.name).sort();
    for (const name of names) {
      const place = join(path, name);
      const info = await promises.stat(place).catch(() => undefined);
      if (!info?.isFile() && !info?.isDirectory()) continue;
      if (++count > mostEntries) throw new BlockError('INVALID_ARGUMENT', `More than ${mostEntries} files in ${dir}`);
      if (info.size > longestFile && info.isFile()) throw new BlockError('INVALID_ARGUMENT', `File ${place} is larger than 4 GB, which FAT cannot hold`);
      if (name.length > 255) throw new BlockError('INVALID_ARGUMENT', `Name too long for FAT: ${place}`);
      const directory = info.isDirectory();
      entries.push({ path: place, name, directory, size: directory ? 0 : info.size, modified: info.mtime, children: directory ? await list(place, [...above, real]) : [] });
    }
    return entries;
  };
  try {
    return { path: dir, name: '', directory: true, size: 0, modified: new Date(0), children: await list(dir, []) };
  } catch (error) {
    if (error instanceof BlockError) throw error;
    throw new BlockError('NOT_FOUND', `Could not read directory ${dir}`, { driver: 'vvfat' }, error);
  }
}

/** Bytes that files and directories take in clusters of `clusterSize`. */
export function contentBytes(root: HostEntry, clusterSize: number): number {
  const whole = (bytes: number): number => Math.ceil(bytes / clusterSize) * clusterSize;
  return root.children.reduce((sum, child) => sum + (child.directory ? contentBytes(child, clusterSize) : whole(child.size)), whole(entryCount(root, false) * entrySize));
}

/** Entries of 32 bytes a directory needs. */
function entryCount({ children }: HostEntry, isFixedRoot: boolean): number {
  const own = isFixedRoot ? labelEntries : 2;
  return children.reduce((sum, { name }) => sum + 1 + Math.ceil(name.length / 13), own);
}

/** Gives clusters to all that is below the root, folder after folder. `root` is the root directory's content. */
export function layOut(tree: HostEntry, geometry: FatGeometry, label: string): { readonly extents: Extent[]; readonly root: Uint8Array; readonly freeFrom: number } {
  const clusterSize = geometry.sectorsPerCluster * sectorSize;
  const fixedRoot = geometry.rootSectors > 0;
  const places = new Map<HostEntry, { first: number; clusters: number }>();
  let next = 2;
  const place = (entry: HostEntry, bytes: number): void => {
    const clusters = Math.ceil(bytes / clusterSize);
    places.set(entry, { first: clusters === 0 ? 0 : next, clusters });
    next += clusters;
  };
  const folders = [tree];
  if (!fixedRoot) place(tree, (entryCount(tree, true)) * entrySize);
  for (const folder of folders) {
    for (const child of folder.children) {
      place(child, child.directory ? entryCount(child, false) * entrySize : child.size);
      if (child.directory) folders.push(child);
    }
  }
  if (next > geometry.clusterCount + 2) {
    const capacity = (geometry.volumeSectors / 2000).toFixed(2);
    throw new BlockError('NO_SPACE', `Directory does not fit in FAT${geometry.fatType} (capacity ${capacity} MB)`);
  }
  const extents: Extent[] = [];
  const parents = new Map<HostEntry, HostEntry>();
  let root = new Uint8Array(0);
  for (const folder of folders) {
    for (const child of folder.children) parents.set(child, folder);
    const firstOf = (entry: HostEntry | undefined): number => (entry === undefined || entry === tree ? 0 : places.get(entry)!.first);
    const bytes = folder === tree ? labelEntry(label) : selfEntries(folder, firstOf(folder), firstOf(parents.get(folder)));
    const taken = new Set<string>();
    const parts = [bytes, ...folder.children.map((child) => directoryEntries({
      longName: child.name, shortName: shortName(child.name, taken), attributes: child.directory ? Attribute.DIRECTORY : Attribute.ARCHIVE,
      modified: child.modified, cluster: places.get(child)!.first, size: child.size,
    }))];
    const content = new Uint8Array(Buffer.concat(parts));
    if (folder === tree) root = content;
    const { first, clusters } = places.get(folder) ?? { first: 0, clusters: 0 };
    if (clusters > 0) extents.push({ kind: 'directory', firstCluster: first, clusters, bytes: content });
    for (const child of folder.children) {
      const { first: firstCluster, clusters: count } = places.get(child)!;
      if (!child.directory && count > 0) extents.push({ kind: 'file', firstCluster, clusters: count, path: child.path, offset: 0, size: child.size });
    }
  }
  if (fixedRoot && root.length > geometry.rootSectors * sectorSize) throw new BlockError('NO_SPACE', 'Too many entries in root directory');
  return { extents: extents.sort((a, b) => a.firstCluster - b.firstCluster), root, freeFrom: next };
}

function labelEntry(label: string): Uint8Array {
  return directoryEntries({ shortName: label.padEnd(11), attributes: Attribute.VOLUME | Attribute.ARCHIVE, cluster: 0, size: 0 });
}

function selfEntries({ modified }: HostEntry, own: number, parent: number): Uint8Array {
  const entry = (name: string, cluster: number): Uint8Array => directoryEntries({ shortName: name.padEnd(11), attributes: Attribute.DIRECTORY, modified, cluster, size: 0 });
  return new Uint8Array(Buffer.concat([entry('.', own), entry('..', parent)]));
}
