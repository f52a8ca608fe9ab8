/** Opening an image, and the parent of one that stands on another. */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { scanTable } from '../../block/entry-tables.js';
import { BlockError, Errno } from '../../block/errors.js';
import { headerBytes, parseHeader, requireTable, uuidText, type VdiHeader } from './header.js';
import { VdiOps } from './ops.js';
import { blocksInFile, entrySize, isAllocated, strideOf } from './entries.js';

export async function openVdi(context: OpenContext<object>): Promise<VdiOps> {
  const file = context.child('file')!;
  const head = new Uint8Array(headerBytes);
  await file.read(0, head);
  const header = parseHeader(head);
  if (!context.mode.noIo) requireTable(header, file.size);
  const parent = await openParent(context, header);
  if (!context.readOnly && header.blockExtra !== 0) {
    throw new BlockError('UNSUPPORTED_FEATURE', 'VDI images with extra data in front of blocks can only be read', { errno: Errno.ENOTSUP });
  }
  return new VdiOps(context, file, parent, header, context.readOnly || context.mode.noIo || context.mode.check ? header.allocated : await blocksInUse(file, header));
}

/**
 * Images name no parent, only its UUID: the user says where it is.
 * @throws BlockError where the user did not, or it is another image
 */
async function openParent({ implicitChild, mode }: OpenContext<object>, { parent }: VdiHeader): Promise<BlockChild | undefined> {
  const child = await implicitChild('backing', { kind: 'backing', filename: '', role: 'cow' });
  if (parent === undefined) {
    if (child !== undefined) throw new BlockError('INVALID_ARGUMENT', 'This VDI image has no parent');
    return undefined;
  }
  const wanted = uuidText(parent);
  if (child === undefined) {
    if (mode.noBacking || mode.noIo) return undefined;
    throw new BlockError('UNSUPPORTED_FEATURE', 'unsupported VDI image (non-NULL link UUID)', {
      errno: Errno.ENOTSUP, hint: `It holds changes to the image with UUID ${wanted}; name that one: backing.driver=vdi,backing.file.filename=…`,
    });
  }
  const id = child.facet('identity')?.id;
  if (id !== undefined && uuidText(id) === wanted) return child;
  throw new BlockError('CORRUPT_IMAGE', `'${child.node.filename}' is not the parent of this image: its UUID is ${id === undefined ? 'none' : uuidText(id)}, not ${wanted}`, {
    errno: Errno.EINVAL,
  });
}

/**
 * Blocks at the start of the file that may hold something. Where the file's length is not what the header says, its writer was cut off,
 * and the block map decides.
 * @throws BlockError where it names what is not there
 */
async function blocksInUse(file: BlockChild, header: VdiHeader): Promise<number> {
  const { tableOffset, blocks, allocated } = header;
  if (file.size === header.dataOffset + allocated * strideOf(header)) return allocated;
  const inFile = blocksInFile(header, file.size);
  let used = Math.min(allocated, inFile);
  await scanTable({ file, offset: tableOffset, length: blocks * entrySize }, (view, at, block) => {
    const entry = view.getUint32(at * entrySize, true);
    if (!isAllocated(entry)) return;
    if (entry < inFile) used = Math.max(used, entry + 1);
    else throw new BlockError('CORRUPT_IMAGE', `Block ${block} lies behind the end of the file`);
  }, entrySize);
  return used;
}
