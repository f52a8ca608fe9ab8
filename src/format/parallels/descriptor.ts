/** DiskDescriptor.xml: what files a bundle is made of, and which of them is shown. Pure. */
import { BlockError, Errno } from '../../block/errors.js';
import { sectorSize } from './header.js';

/** Shown where the bundle does not say what is. */
const usualTop = '{5fbaabe3-6958-40ff-92a7-860e329aab41}';
const nobody = '{00000000-0000-0000-0000-000000000000}';
const mostStorages = 1024;
const longestChain = 256;

export interface BundleImage {
  readonly filename: string;
  readonly format: 'parallels' | 'raw';
}

/** A part of the disk; bytes. */
export interface BundleStorage {
  readonly start: number;
  readonly length: number;
  /** The image that is written to first, then those that show through where it holds nothing. */
  readonly images: readonly BundleImage[];
}

export interface Bundle {
  readonly size: number;
  /** Unit in which images say whether they hold something. */
  readonly clusterSize: number;
  readonly storages: readonly BundleStorage[];
}

/** Up to the name of the root, which stands in a document type, too. */
const beginning = /^\uFEFF?\s*(<\?xml[^>]*>\s*)?(<!--[^]*?-->\s*)*<(?<documentType>!DOCTYPE\s+)?Parallels_disk_image[\s>[]/;

export function isDescriptor(head: Uint8Array): boolean {
  return beginning.test(new TextDecoder().decode(head));
}

/** @throws BlockError CORRUPT_IMAGE | UNSUPPORTED_FEATURE */
export function parseDescriptor(text: string): Bundle {
  if (beginning.exec(text)?.groups?.['documentType'] !== undefined) throw unsupported('a document type (DOCTYPE)');
  const root = element(text, 'Parallels_disk_image') ?? fail('lacks Parallels_disk_image');
  const version = /<Parallels_disk_image[^>]*\sVersion="([^"]*)"/.exec(text)?.[1];
  if (version !== '1.0') throw unsupported(`version '${version ?? ''}'`);
  const disk = element(root, 'Disk_Parameters') ?? fail('lacks Disk_Parameters');
  if ((element(disk, 'Padding') ?? '0').trim() !== '0') throw unsupported('padding');
  const engine = element(element(disk, 'Encryption') ?? '', 'Engine')?.trim() ?? '';
  if (engine !== '' && engine !== nobody) throw unsupported('encryption');
  const storages = elements(element(root, 'StorageData') ?? '', 'Storage');
  if (storages.length === 0 || storages.length > mostStorages) fail(`has ${storages.length} storages`);
  const parents = parentsOf(element(root, 'Snapshots') ?? '');
  const top = element(element(root, 'Snapshots') ?? '', 'TopGUID')?.trim().toLowerCase();
  const sectors = number(disk, 'Disk_size');
  let end = 0;
  const parts = storages.map((storage): BundleStorage => {
    const start = number(storage, 'Start');
    const stop = number(storage, 'End');
    if (start !== end || stop <= start) fail('has storages that do not follow one another');
    end = stop;
    return { start: start * sectorSize, length: (stop - start) * sectorSize, images: chainOf(storage, top, parents) };
  });
  if (end !== sectors) fail('has storages of another size than the disk');
  const blocks = new Set(storages.map((storage) => number(storage, 'Blocksize')));
  const [block = 0] = blocks;
  if (blocks.size > 1 || block === 0 || block > 1 << 21) fail('has blocks of no sensible size');
  return { size: sectors * sectorSize, clusterSize: block * sectorSize, storages: parts };
}

function chainOf(storage: string, top: string | undefined, parents: ReadonlyMap<string, string>): BundleImage[] {
  const images = new Map(elements(storage, 'Image').map((image) => [(element(image, 'GUID') ?? '').trim().toLowerCase(), image]));
  const only = images.size === 1 ? [...images.keys()][0] : undefined;
  const chain: BundleImage[] = [];
  for (let guid = top ?? (images.has(usualTop) ? usualTop : only); guid !== undefined && guid !== nobody; guid = parents.get(guid)) {
    const image = images.get(guid) ?? fail(`lacks the image ${guid}`);
    if (chain.length === longestChain) fail('has snapshots in a circle');
    const type = (element(image, 'Type') ?? '').trim();
    if (type !== 'Compressed' && type !== 'Plain') throw unsupported(`images of type '${type}'`);
    const filename = unescape((element(image, 'File') ?? '').trim());
    if (filename === '') fail('has an image without a file');
    chain.push({ filename, format: type === 'Plain' ? 'raw' : 'parallels' });
  }
  return chain.length > 0 ? chain : fail('does not say which image is shown');
}

function parentsOf(snapshots: string): Map<string, string> {
  return new Map(elements(snapshots, 'Shot').map((shot) =>
    [(element(shot, 'GUID') ?? '').trim().toLowerCase(), (element(shot, 'ParentGUID') ?? nobody).trim().toLowerCase()]));
}

/** What stands between the tags of each element of that name; elements of one name are not nested here. */
function elements(text: string, name: string): string[] {
  const found: string[] = [];
  for (let at = 0; ;) {
    const open = new RegExp(`<${name}(?:\\s[^>]*)?>`, 'g');
    open.lastIndex = at;
    const start = open.exec(text);
    const stop = start === null ? -1 : text.indexOf(`</${name}>`, open.lastIndex);
    if (stop < 0) return found;
    found.push(text.slice(open.lastIndex, stop));
    at = stop;
  }
}

function element(text: string, name: string): string | undefined {
  return elements(text, name)[0];
}

function number(text: string, name: string): number {
  const value = (element(text, name) ?? '').trim();
  const parsed = Number(value);
  return /^\d+$/.test(value) && Number.isSafeInteger(parsed * sectorSize) ? parsed : fail(`lacks a number for ${name}`);
}

function unescape(text: string): string {
  const names: Readonly<Record<string, string>> = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&' };
  return text.replaceAll(/&(lt|gt|quot|apos|amp);/g, (_, name: string) => names[name]!);
}

function fail(what: string): never {
  throw new BlockError('CORRUPT_IMAGE', `DiskDescriptor.xml ${what}`, { errno: Errno.EINVAL });
}

function unsupported(what: string): BlockError {
  return new BlockError('UNSUPPORTED_FEATURE', `Parallels bundles with ${what} are not supported`);
}
