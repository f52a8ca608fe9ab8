/** A note beside an image for as long as an operation adds files to it or takes some away: whoever cleans up goes by it. */
import type { BlockBackend } from './child.js';
import { protocolOf } from './create.js';
import type { BlockDriver, FolderOperations } from './driver.js';
import { BlockError, Errno } from './errors.js';
import type { BlockGraph } from './graph.js';
import { encodeNote, noteName, temporaryName, type OperationNote } from './leftovers.js';

export class FileNote {
  readonly #graph: BlockGraph;
  readonly #files: ProtocolFiles;
  readonly #name: string;
  /** It is held as long as the operation runs. */
  readonly #held: BlockBackend;
  readonly #made: { readonly name: string; readonly of?: string }[] = [];

  private constructor(graph: BlockGraph, files: ProtocolFiles, name: string, held: BlockBackend) {
    this.#graph = graph;
    this.#files = files;
    this.#name = name;
    this.#held = held;
  }

  /** It is durable when this resolves. @throws BlockError NOT_SUPPORTED where files have no names */
  static async write(graph: BlockGraph, note: OperationNote): Promise<FileNote> {
    const files = protocolFiles(graph, note.image);
    const name = noteName(note.image);
    await files.create(name);
    try {
      return new FileNote(graph, files, name, await fill(graph, files, name, encodeNote(note)));
    } catch (error) {
      await files.remove(name);
      throw error;
    }
  }

  /** Makes one of the files that the note says are added. @throws BlockError ALREADY_EXISTS */
  async create(filename: string): Promise<void> {
    if (await this.#files.folders.exists(this.#files.place(filename))) throw alreadyExists(filename);
    await this.#files.create(filename);
    this.#made.push({ name: filename });
  }

  /** Gives a file a further name, one of those added. @throws BlockError ALREADY_EXISTS */
  async link(filename: string, name: string): Promise<void> {
    await this.#files.folders.link(this.#files.place(filename), this.#files.place(name));
    this.#made.push({ name, of: filename });
  }

  /** The file appears at once, with this content. */
  async place(filename: string, content: Uint8Array): Promise<void> {
    // not the temporary name of the image, which may be what is renamed
    const temporary = temporaryName(`${filename}.text`);
    await this.#files.create(temporary);
    try {
      await (await fill(this.#graph, this.#files, temporary, content)).close();
      await this.#files.folders.link(this.#files.place(temporary), this.#files.place(filename));
    } finally {
      if (await this.#files.folders.exists(this.#files.place(temporary))) await this.#files.remove(temporary);
    }
  }

  async remove(): Promise<void> {
    await this.#held.close();
    await this.#files.remove(this.#name);
  }

  /** What was made goes again. */
  async undo(): Promise<void> {
    const { folders, place } = this.#files;
    for (const { name, of } of this.#made) {
      if (of !== undefined && !await folders.exists(place(of))) await folders.link(place(name), place(of));
      else await this.#files.remove(name);
    }
    await this.remove();
  }
}

/** Durable content for a new file, which is left open where that succeeds. */
export async function fill(graph: BlockGraph, { protocol, place }: ProtocolFiles, name: string, content: Uint8Array): Promise<BlockBackend> {
  const file = await graph.openBackend({ driver: protocol.name, filename: place(name) });
  try {
    file.allowWriteBeyondEnd = true;
    await file.write(0, content);
    await file.flush();
    return file;
  } catch (error) {
    await file.close();
    throw error;
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
