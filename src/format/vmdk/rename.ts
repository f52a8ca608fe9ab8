/** What a disk's files are called when the disk is. */
import { BlockError, Errno } from '../../block/errors.js';
import type { RenamePlan } from '../../block/facets.js';
import { resolvePath, resolveReference } from '../../block/filename.js';
import type { Steps } from '../../util/steps.js';
import type { ExtentLine } from './descriptor.js';
import { editDescriptor, type DescriptorEdit } from './descriptor-text.js';
import type { VmdkImage } from './image.js';
import { nameParts, renamedExtent } from './names.js';

/** In an extent's own file the descriptor's new text is written at once. */
export function* planRename(image: VmdkImage, to: string): Steps<RenamePlan> {
  const from = image.file.node.filename;
  const [before, after] = [nameParts(from), nameParts(to)];
  const moved = before.folder !== after.folder;
  const { extents, parentHint } = image.descriptor;
  const moves: (readonly [string, string])[] = [];
  const lines = extents.map((line): ExtentLine => {
    const { filename } = line;
    if (filename === undefined) return line;
    if (image.embedded) return { ...line, filename: after.stem + after.suffix };
    if (filename.includes('/')) return { ...line, filename: pinned(filename, resolvePath(filename, from), moved) };
    const name = renamedExtent(filename, before, after);
    if (name !== filename || moved) moves.push([resolvePath(filename, from), after.folder + name]);
    return { ...line, filename: name };
  });
  const hint = parentHint === undefined || /\\|^[A-Za-z]:/.test(parentHint) ? parentHint : pinned(parentHint, resolveReference(parentHint, from), moved);
  const edit: DescriptorEdit = { extents: lines, ...(hint !== parentHint && { fields: { parentFileNameHint: `"${hint}"` } }) };
  if (!image.embedded) return { moves, content: editDescriptor(yield* image.readText(), edit) };
  yield* image.edit(edit);
  return { moves };
}

/** A name that leads to the same place from another folder. */
function pinned(name: string, place: string, moved: boolean): string {
  if (!moved || name === place) return name;
  if (!place.startsWith('/')) throw new BlockError('INVALID_ARGUMENT', `'${name}' would not be found from another folder: give the whole path of the image`, { errno: Errno.EINVAL });
  return place;
}
