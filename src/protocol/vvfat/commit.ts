/** Bringing to the folder what a guest made of its file system. All is read and judged before the first file changes. */
import { promises } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { broken, FatTable } from './fat.js';
import { sectorSize, type FatGeometry } from './geometry.js';
import { parseDirectory } from './names.js';
import type { Extent } from './tree.js';

export interface CommitSource {
  readonly dir: string;
  readonly geometry: FatGeometry;
  readonly extents: readonly Extent[];
  /** Files and folders that are there because they were when the disk was opened, or through it. */
  readonly known: readonly KnownPath[];
  /** The disk as the guest sees it. */
  read(sector: number, sectors: number): Promise<Uint8Array>;
  isWritten(sector: number): boolean;
}

export interface KnownPath { readonly path: string; readonly directory: boolean }

export interface CommitResult {
  /** Where the bytes of files lie now. */
  readonly extents: readonly Extent[];
  readonly known: readonly KnownPath[];
  /** Sectors whose content is in files now. */
  readonly stored: readonly number[];
}

interface Wanted {
  readonly path: string;
  readonly directory: boolean;
  readonly clusters: readonly number[];
  readonly size: number;
  readonly modified: Date;
}

type FileExtent = Extent & { readonly kind: 'file' };

/** @throws IO_ERROR where the file system is not consistent; the folder is untouched then */
export async function commitChanges(source: CommitSource): Promise<CommitResult> {
  const { geometry, extents } = source;
  const { volumeStart, reservedSectors, sectorsPerFat, sectorsPerCluster, dataStart } = geometry;
  const fat = new FatTable(geometry, await source.read(volumeStart + reservedSectors, sectorsPerFat));
  const sectorOf = (cluster: number): number => volumeStart + dataStart + (cluster - 2) * sectorsPerCluster;
  const sectorsOf = (cluster: number): number[] => Array.from({ length: sectorsPerCluster }, (_, index) => sectorOf(cluster) + index);
  const readClusters = async (clusters: readonly number[]): Promise<Uint8Array> => {
    const parts = [];
    for (const cluster of clusters) parts.push(await source.read(sectorOf(cluster), sectorsPerCluster));
    return new Uint8Array(Buffer.concat(parts));
  };
  const wanted = await readTree(source, fat, readClusters);
  const clusterSize = sectorsPerCluster * sectorSize;
  const isUnchanged = (entry: Wanted): boolean => {
    const before = extents.filter((extent) => extent.kind === 'file' && extent.path === entry.path);
    const now = runs(entry, clusterSize);
    return now.length > 0 && now.length === before.length && isDeepStrictEqual(new Set(before), new Set(now))
      && !entry.clusters.some((cluster) => sectorsOf(cluster).some((sector) => source.isWritten(sector)));
  };
  const changed = wanted.filter((entry) => !entry.directory && !isUnchanged(entry));
  for (const { path, directory } of wanted) if (directory) await promises.mkdir(path, { recursive: true });
  // Every new content is written out before the first old file, which it may be read from, is replaced.
  const finished: { readonly temporary: string; readonly entry: Wanted }[] = [];
  try {
    for (const entry of changed) {
      const temporary = `${entry.path}.vvfat-${process.pid}`;
      finished.push({ temporary, entry });
      await store(temporary, entry, readClusters);
    }
  } catch (error) {
    for (const { temporary } of finished) await promises.rm(temporary, { force: true });
    throw error;
  }
  for (const { temporary, entry } of finished) await replace(temporary, entry);
  await removeOthers(source.known, new Set(wanted.map(({ path }) => path)));
  return {
    extents: [...extents.filter(({ kind }) => kind === 'directory'), ...wanted.flatMap((entry) => (entry.directory ? [] : runs(entry, clusterSize)))]
      .sort((a, b) => a.firstCluster - b.firstCluster),
    known: wanted,
    stored: wanted.flatMap(({ directory, clusters }) => (directory ? [] : clusters.flatMap(sectorsOf))),
  };
}

async function readTree({ dir, geometry, read }: CommitSource, fat: FatTable, readClusters: (clusters: readonly number[]) => Promise<Uint8Array>): Promise<Wanted[]> {
  const { fatType, volumeStart, dataStart, rootSectors, clusterCount, sectorsPerCluster } = geometry;
  const wanted: Wanted[] = [];
  const used = new Set<number>();
  const claim = (clusters: readonly number[], what: string): void => {
    for (const cluster of clusters) {
      if (used.has(cluster)) throw broken(`cluster ${cluster} of ${what} belongs to another file, too`);
      used.add(cluster);
    }
  };
  const visit = async (folder: string, bytes: Uint8Array): Promise<void> => {
    const names = new Set<string>();
    for (const { name, directory, cluster, size, modified } of parseDirectory(bytes)) {
      const path = join(folder, name);
      if (name === '' || /[/\0]/.test(name) || name === '.' || name === '..') throw broken(`a file in ${folder} is called "${name}"`);
      if (names.has(name.toUpperCase())) throw broken(`${path} is there twice`);
      names.add(name.toUpperCase());
      const first = fatType === 32 ? cluster : cluster & 0xffff;
      const clusters = first === 0 ? [] : fat.chain(first, path);
      claim(clusters, path);
      if (!directory && clusters.length !== Math.ceil(size / (sectorsPerCluster * sectorSize))) throw broken(`${path} has ${size} bytes in ${clusters.length} clusters`);
      wanted.push({ path, directory, clusters, size, modified });
      if (wanted.length > clusterCount * 16) throw broken('it holds more files than it has room for');
      if (directory) await visit(path, await readClusters(clusters));
    }
  };
  if (rootSectors > 0) await visit(dir, await read(volumeStart + dataStart - rootSectors, rootSectors));
  else {
    const clusters = fat.chain(2, 'the root directory');
    claim(clusters, 'the root directory');
    await visit(dir, await readClusters(clusters));
  }
  return wanted;
}

async function store(path: string, { clusters, size }: Wanted, readClusters: (clusters: readonly number[]) => Promise<Uint8Array>): Promise<void> {
  const file = await promises.open(path, 'wx');
  try {
    let at = 0;
    for (const cluster of clusters) {
      const bytes = (await readClusters([cluster])).subarray(0, size - at);
      await file.write(bytes, 0, bytes.length, at);
      at += bytes.length;
    }
    await file.datasync();
  } finally {
    await file.close();
  }
}

async function replace(temporary: string, { path, modified }: Wanted): Promise<void> {
  const old = await promises.stat(path).catch(() => undefined);
  if (old) await promises.chmod(temporary, old.mode & 0o7777);
  await promises.utimes(temporary, modified, modified);
  await promises.rename(temporary, path);
}

/** Files that came to the folder since are not ours to remove, nor are folders that hold some. */
async function removeOthers(known: readonly KnownPath[], wanted: ReadonlySet<string>): Promise<void> {
  const gone = known.filter(({ path }) => !wanted.has(path));
  for (const { path, directory } of gone) if (!directory) await promises.rm(path, { force: true });
  const folders = gone.filter(({ directory }) => directory).sort((a, b) => b.path.length - a.path.length);
  for (const { path } of folders) await promises.rmdir(path).catch(() => undefined);
}

/** A file's clusters as extents. */
function runs({ path, clusters, size }: Wanted, clusterSize: number): FileExtent[] {
  const found: FileExtent[] = [];
  for (let start = 0; start < clusters.length;) {
    let end = start + 1;
    while (end < clusters.length && clusters[end] === clusters[end - 1]! + 1) end++;
    const offset = start * clusterSize;
    found.push({ kind: 'file', firstCluster: clusters[start]!, clusters: end - start, path, offset, size: Math.min(size - offset, (end - start) * clusterSize) });
    start = end;
  }
  return found;
}
