/** Names by which the remains of a cut-off operation are known, and the notes that tell what it was about. No I/O. */

const temporaryMark = '.vdisk-tmp';
const noteMark = '.vdisk-todo';

/**
 * Where content is made that is to become `filename`, in the same folder: `disk.vmdk` is made in `disk.vdisk-tmp.vmdk`. Whatever
 * has such a name and is not in use is a leftover.
 */
export function temporaryName(filename: string): string {
  const name = filename.slice(filename.lastIndexOf('/') + 1);
  const dot = name.lastIndexOf('.');
  const cut = filename.length - (dot <= 0 ? 0 : name.length - dot);
  return filename.slice(0, cut) + temporaryMark + filename.slice(cut);
}

export function isTemporary(filename: string): boolean {
  return filename.slice(filename.lastIndexOf('/') + 1).includes(temporaryMark);
}

/** Of an operation on several files. */
export interface OperationNote {
  /** The operation is done when this image consists of all files that were `added`: those `removed` go then, else those added. */
  readonly image: string;
  readonly added: readonly string[];
  readonly removed: readonly string[];
}

export function noteName(image: string): string {
  return image + noteMark;
}

export function isNote(filename: string): boolean {
  return filename.endsWith(noteMark);
}

export function encodeNote(note: OperationNote): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(note));
}

/** Undefined where the note was cut off: nothing was begun then. */
export function decodeNote(bytes: Uint8Array): OperationNote | undefined {
  try {
    const note: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof note !== 'object' || note === null || !('image' in note) || !('added' in note) || !('removed' in note)) return undefined;
    const { image, added, removed } = note;
    return typeof image === 'string' && isNames(added) && isNames(removed) ? { image, added, removed } : undefined;
  } catch {
    return undefined;
  }
}

function isNames(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((name) => typeof name === 'string');
}
