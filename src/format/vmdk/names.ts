/** Names of a disk's files. */
import { folderPart } from '../../block/filename.js';

/** A file's own name up to its last dot, and from there. */
interface OwnNameParts {
  readonly stem: string;
  readonly suffix: string;
}

export interface NameParts extends OwnNameParts {
  /** With its slash, or a protocol's prefix. */
  readonly folder: string;
}

export function nameParts(filename: string): NameParts {
  const folder = folderPart(filename);
  return { folder, ...ownNameParts(filename.slice(folder.length)) };
}

function ownNameParts(name: string): OwnNameParts {
  const dot = name.lastIndexOf('.');
  return { stem: dot === -1 ? name : name.slice(0, dot), suffix: dot === -1 ? '' : name.slice(dot) };
}

/** Name of the extent with that number, counted from 1, of a disk in several files. */
export function splitName({ stem, suffix }: OwnNameParts, flat: boolean, number: number): string {
  return `${stem}-${flat ? 'f' : 's'}${String(number).padStart(3, '0')}${suffix}`;
}

/** What an extent, which lies in its disk's folder, is called when its disk is: names that begin as the disk's do go with it. */
export function renamedExtent(name: string, from: OwnNameParts, to: OwnNameParts): string {
  const { stem, suffix } = ownNameParts(name);
  if (!stem.startsWith(from.stem)) return name;
  return to.stem + stem.slice(from.stem.length) + (suffix === from.suffix ? to.suffix : suffix);
}
