/** The files that an image is made of: moving, removing, and what cut-off operations left of them. */
import { BlockError, Errno } from '../block/errors.js';
import type { RenamePlan } from '../block/facets.js';
import { alreadyExists, FileNote, fill, protocolFiles, type ProtocolFiles } from '../block/file-note.js';
import { placeOf, resolveReference } from '../block/filename.js';
import type { BlockGraph } from '../block/graph.js';
import { decodeNote, isNote, isTemporary, temporaryName, type OperationNote } from '../block/leftovers.js';
import type { BlockNode } from '../block/node.js';

export { temporaryName };

export interface FileOperationOptions { readonly driver?: string }

/** Names of all host files of one layer, the image itself first; backing files are not among them. */
export function imageFiles(node: BlockNode): readonly string[] {
  const children = [...node.children.values()].filter(({ role }) => role !== 'cow');
  if (children.length === 0) return node.driver.kind === 'protocol' ? [placeOf(node) ?? node.filename] : [];
  const own = children.filter(({ name }) => name === 'file');
  const others = children.filter(({ name }) => name !== 'file');
  return [...new Set([...own, ...others].flatMap((child) => imageFiles(child.node)))];
}

/**
 * Gives an image another name, and its further files names to match. At each moment it is complete under one of its names, or both.
 * @throws BlockError ALREADY_EXISTS where a file of a new name is there; PERMISSION_CONFLICT where somebody has it open
 */
export async function renameImage(graph: BlockGraph, from: string, to: string, options: FileOperationOptions = {}): Promise<void> {
  const files = protocolFiles(graph, from);
  const existing = async (name: string): Promise<boolean> => files.folders.exists(files.place(name));
  if (await existing(to)) throw alreadyExists(to);
  const plan = await planRename(graph, from, to, options);
  for (const [, name] of plan.moves) if (await existing(name)) throw alreadyExists(name);
  const note = await FileNote.write(graph, {
    image: to, added: plan.moves.map(([, name]) => name), removed: [from, ...plan.moves.map(([name]) => name)],
  });
  try {
    for (const [name, newName] of plan.moves) await note.link(name, newName);
    if (plan.content === undefined) await note.link(from, to);
    else await note.place(to, plan.content);
  } catch (error) {
    await note.undo();
    throw error;
  }
  await files.remove(from);
  for (const [name] of plan.moves) if (await existing(name)) await files.remove(name);
  await note.remove();
}

/**
 * Gives an image the name of another, which is no more from that moment on, nor its further files. What the new image's files cannot
 * be called meanwhile, because the old one's are, they are not called afterwards either.
 * @throws BlockError PERMISSION_CONFLICT where somebody has one of them open
 */
export async function replaceImage(graph: BlockGraph, from: string, to: string, options: FileOperationOptions = {}): Promise<void> {
  const files = protocolFiles(graph, from);
  const { folders, place } = files;
  const replaced = await filesOf(graph, to);
  if (replaced === undefined) return renameImage(graph, from, to, options);
  const plan = await planBeside(graph, from, to, options);
  const others = [...replaced].filter((name) => place(name) !== place(to));
  const note = await FileNote.write(graph, { image: to, added: plan.moves.map(([, name]) => name), removed: [from, ...plan.moves.map(([name]) => name), ...others] });
  try {
    for (const [name, newName] of plan.moves) await note.link(name, newName);
    await folders.replace(place(to), async (temporary) => {
      if (plan.content === undefined) return folders.link(place(from), temporary);
      await files.create(temporary);
      await (await fill(graph, files, temporary, plan.content)).close();
    });
  } catch (error) {
    await note.undo();
    throw error;
  }
  for (const name of [from, ...plan.moves.map(([each]) => each), ...others]) if (await folders.exists(place(name))) await files.remove(name);
  await note.remove();
}

/** Like planRename(), with names that nobody has for all files but the image itself. */
async function planBeside(graph: BlockGraph, from: string, to: string, options: FileOperationOptions): Promise<RenamePlan> {
  const { folders, place } = protocolFiles(graph, from);
  for (let number = 0;; number++) {
    const plan = await planRename(graph, from, number === 0 ? to : to.replace(/(\.[^./]*)?$/, `-${number}$1`), options);
    const taken = await Promise.all(plan.moves.map(([, name]) => folders.exists(place(name))));
    if (!taken.includes(true)) return plan;
  }
}

async function planRename(graph: BlockGraph, from: string, to: string, { driver }: FileOperationOptions): Promise<RenamePlan> {
  const disk = await graph.openBackend(from, { noBacking: true, ...(driver !== undefined && { driver }) });
  try {
    const facet = disk.facet('rename');
    if (facet !== undefined) return await facet.renamed(to);
    const names = [disk.facet('backing')?.filename, ...imageFiles(disk.node).slice(1)];
    const moved = folderOf(from) !== folderOf(to);
    if (moved && names.some((name) => name !== undefined && resolveReference(name, from) !== name)) {
      throw new BlockError('NOT_SUPPORTED', 'Other files that the image names would not be found from another folder', { filename: from, errno: Errno.ENOTSUP });
    }
    return { moves: [] };
  } finally {
    await disk.close();
  }
}

/**
 * Removes one layer with all its files; what stands on it is left without.
 * @throws BlockError PERMISSION_CONFLICT where somebody has it open
 */
export async function removeImage(graph: BlockGraph, filename: string, { driver }: FileOperationOptions = {}): Promise<void> {
  const files = protocolFiles(graph, filename);
  const disk = await graph.openBackend(filename, { noBacking: true, check: true, ...(driver !== undefined && { driver }) });
  const others = imageFiles(disk.node).filter((name) => name !== filename && files.place(name) !== files.place(filename));
  await disk.close();
  const note = others.length === 0 ? undefined : await FileNote.write(graph, { image: filename, added: others, removed: [] });
  await files.remove(filename);
  for (const name of others) await files.remove(name);
  await note?.remove();
}

/** Files that cut-off operations left in a folder, whose names end with it; those in use are not among them. */
export async function leftovers(graph: BlockGraph, folder: string): Promise<readonly string[]> {
  return (await find(graph, folder)).unused;
}

/** Removes them. `remaining`: those of operations that still run, or that could not be removed. */
export async function removeLeftovers(graph: BlockGraph, folder: string): Promise<{ removed: readonly string[]; remaining: readonly string[] }> {
  const { unused, used } = await find(graph, folder);
  const removed: string[] = [];
  const remaining = [...used];
  for (const filename of unused) {
    await protocolFiles(graph, filename).remove(filename).then(() => removed.push(filename), () => remaining.push(filename));
  }
  return { removed, remaining };
}

async function find(graph: BlockGraph, folder: string): Promise<{ unused: readonly string[]; used: readonly string[] }> {
  const inside = folder === '' || folder.endsWith('/') ? folder : `${folder}/`;
  const files = protocolFiles(graph, `${inside}.`);
  const unused = new Set<string>();
  const used: string[] = [];
  for (const name of await files.folders.list(files.place(inside))) {
    const filename = inside + name;
    if (!isTemporary(name) && !isNote(name)) continue;
    const content = await contentIfUnused(graph, files, filename, isNote(name));
    if (content === undefined) {
      used.push(filename);
      continue;
    }
    const note = isNote(name) ? decodeNote(content) : undefined;
    const told = note === undefined ? [] : await condemned(graph, files, note, inside);
    if (told === undefined) {
      used.push(filename);
      continue;
    }
    for (const each of told) unused.add(each);
    // last, so that what it tells is not forgotten
    unused.add(filename);
  }
  return { unused: [...unused], used };
}

/** Undefined where somebody has it open. */
async function contentIfUnused(graph: BlockGraph, { protocol, place }: ProtocolFiles, filename: string, wanted: boolean): Promise<Uint8Array | undefined> {
  try {
    const file = await graph.openBackend({ driver: protocol.name, filename: place(filename) });
    try {
      const content = new Uint8Array(wanted ? Math.min(file.size, maxNote) : 0);
      await file.read(0, content);
      return content;
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof BlockError && error.code === 'PERMISSION_CONFLICT') return undefined;
    throw error;
  }
}
const maxNote = 1 << 20;

/** What an operation that was cut off left, of the files its note tells; undefined where some have their new names only, and must not go. */
async function condemned(graph: BlockGraph, files: ProtocolFiles, { image, added, removed }: OperationNote, folder: string): Promise<string[] | undefined> {
  const here = (name: string): string => (name.startsWith('/') ? name : folder + name.slice(name.lastIndexOf('/') + 1));
  const own = await filesOf(graph, here(image));
  const done = own !== undefined && added.every((name) => own.has(files.place(here(name))));
  const exists = async (name: string): Promise<boolean> => files.folders.exists(files.place(name));
  for (const name of done ? [] : removed) if (!await exists(here(name))) return undefined;
  const found: string[] = [];
  for (const name of (done ? removed : added).map(here)) {
    if (own?.has(files.place(name)) !== true && await exists(name)) found.push(name);
  }
  return found;
}

/** Undefined where there is no such image. */
async function filesOf(graph: BlockGraph, image: string): Promise<ReadonlySet<string> | undefined> {
  try {
    const disk = await graph.openBackend(image, { noBacking: true, check: true });
    try {
      return new Set(imageFiles(disk.node));
    } finally {
      await disk.close();
    }
  } catch (error) {
    if (error instanceof BlockError && error.code === 'NOT_FOUND') return undefined;
    throw error;
  }
}

function folderOf(filename: string): string {
  return filename.slice(0, filename.lastIndexOf('/') + 1);
}
