/** A note beside an image for as long as an operation adds files to it or takes some away: whoever cleans up goes by it. */
import { protocolOf } from './create.js';
import type { BlockDriver, FolderOperations } from './driver.js';
import { BlockError, Errno } from './errors.js';
import type { BlockGraph } from './graph.js';
import { encodeNote, noteName, type OperationNote } from './leftovers.js';

export class FileNote {
  readonly #files: ProtocolFiles;
  readonly #name: string;
  readonly #created: string[] = [];

  private constructor(files: ProtocolFiles, name: string) {
    this.#files = files;
    this.#name = name;
  }

  /** It is durable when this resolves. @throws BlockError NOT_SUPPORTED where files have no names */
  static async write(graph: BlockGraph, note: OperationNote): Promise<FileNote> {
    const files = protocolFiles(graph, note.image);
    const name = noteName(note.image);
    await files.create(name);
    const file = await graph.openBackend({ driver: files.protocol.name, filename: files.place(name) });
    try {
      file.allowWriteBeyondEnd = true;
      await file.write(0, encodeNote(note));
      await file.flush();
    } finally {
      await file.close();
    }
    return new FileNote(files, name);
  }

  /** Makes one of the files that the note says are added. @throws BlockError ALREADY_EXISTS */
  async create(filename: string): Promise<void> {
    if (await this.#files.folders.exists(this.#files.place(filename))) throw alreadyExists(filename);
    await this.#files.create(filename);
    this.#created.push(filename);
  }

  remove(): Promise<void> {
    return this.#files.remove(this.#name);
  }

  /** What was created goes again. */
  async undo(): Promise<void> {
    for (const filename of this.#created) await this.#files.remove(filename);
    await this.remove();
  }
}

export interface ProtocolFiles {
  readonly protocol: BlockDriver;
  readonly folders: FolderOperations;
  /** A name without its protocol's prefix. */
  place(filename: string): string;
  create(filename: string): Promise<void>;
  remove(filename: string): Promise<void>;
}

/** What can be done with files where an image lies. @throws BlockError NOT_SUPPORTED */
export function protocolFiles(graph: BlockGraph, image: string): ProtocolFiles {
  const protocol = protocolOf(graph, image);
  const { folders, createFile, deleteFile } = protocol;
  if (!folders || !createFile || !deleteFile) {
    throw new BlockError('NOT_SUPPORTED', `Protocol driver '${protocol.name}' does not support handling files by name`, { filename: image, errno: Errno.ENOTSUP });
  }
  const place = (name: string): string => {
    const own = graph.toOptions(name, protocol.name)['filename'];
    return typeof own === 'string' ? own : name;
  };
  return {
    protocol, folders, place,
    create: (filename) => createFile(place(filename), {}),
    remove: (filename) => deleteFile(place(filename)),
  };
}

export function alreadyExists(filename: string): BlockError {
  return new BlockError('ALREADY_EXISTS', `'${filename}' already exists`, { filename, errno: Errno.EEXIST });
}
