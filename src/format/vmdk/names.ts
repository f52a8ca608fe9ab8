/** Names of a disk's files. */

export interface NameParts {
  /** With its slash. */
  readonly folder: string;
  /** The name up to its last dot, and from there. */
  readonly stem: string;
  readonly suffix: string;
}

export function nameParts(filename: string): NameParts {
  const slash = Math.max(filename.lastIndexOf('/'), filename.lastIndexOf(':'));
  const name = filename.slice(slash + 1);
  const dot = name.lastIndexOf('.');
  return { folder: filename.slice(0, slash + 1), stem: dot === -1 ? name : name.slice(0, dot), suffix: dot === -1 ? '' : name.slice(dot) };
}

/** Name of the extent with that number, counted from 1, of a disk in several files. */
export function splitName({ stem, suffix }: NameParts, flat: boolean, number: number): string {
  return `${stem}-${flat ? 'f' : 's'}${String(number).padStart(3, '0')}${suffix}`;
}

/** What an extent is called when its disk is: names that begin as the disk's do go with it. */
export function renamedExtent(name: string, from: NameParts, to: NameParts): string {
  const { folder, stem, suffix } = nameParts(name);
  if (folder !== '' || !stem.startsWith(from.stem)) return name;
  return to.stem + stem.slice(from.stem.length) + (suffix === from.suffix ? to.suffix : suffix);
}
