/** What a disk can do beyond requests. */
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { Facets, IdentityFacet } from '../../block/facets.js';
import type { MaybePromise } from '../../util/maybe.js';
import { run } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { checkVmdk } from './check.js';
import { compactFiles } from './compact.js';
import { formatCid, noParent } from './descriptor.js';
import type { DescriptorEdit } from './descriptor-text.js';
import type { VmdkImage } from './image.js';
import { vmdkInfo } from './info.js';
import { planRename } from './rename.js';

/** `exclusively` lets nothing else change the descriptor meanwhile. */
export function vmdkFacets(image: VmdkImage, exclusively: <T>(change: () => MaybePromise<T>) => MaybePromise<T>): Partial<Facets> {
  const edit = async (change: DescriptorEdit): Promise<void> => {
    if (image.file.node.readOnly) throw new BlockError('PERMISSION', 'Image is read-only', { filename: image.file.node.filename, errno: Errno.EACCES });
    await exclusively(() => run(image.edit(change)));
  };
  return {
    check: { check: (options) => checkVmdk(image, options) },
    backing: {
      get filename() { return image.descriptor.parentHint; },
      format: 'vmdk',
      change: (filename, _format, identity) => edit({ fields: parentFields(image, filename, identity) }),
      adoptsUnchecked: true,
      verify: () => image.checkParent(),
    },
    identity: {
      get id() {
        const id = new Uint8Array(4);
        viewOf(id).setUint32(0, image.descriptor.cid);
        return id;
      },
    },
    diskDatabase: {
      entries: () => image.descriptor.database,
      set: (key, value) => edit({ entries: new Map([[key, value]]) }),
    },
    ...(image.extents.some(({ compressed }) => compressed) ? {} : { compact: { get files() { return compactFiles(image); } } }),
    rename: { renamed: async (to) => exclusively(() => run(planRename(image, to))) },
    get formatInfo() { return vmdkInfo(image); },
  };
}

/** @throws BlockError INVALID_ARGUMENT where the new parent is not known by anything */
function parentFields(image: VmdkImage, filename: string | undefined, identity: IdentityFacet | undefined): Record<string, string | undefined> {
  if (filename === undefined) return { parentCID: formatCid(noParent), parentFileNameHint: undefined };
  if (/["\r\n]/.test(filename)) throw new BlockError('INVALID_ARGUMENT', 'A backing file name with quotes or line ends cannot be stored', { errno: Errno.EINVAL });
  if (image.extents.some(({ grainSize }) => grainSize === undefined)) {
    throw new BlockError('NOT_SUPPORTED', "Flat image can't have backing file", { fault: 'parent-refused', errno: Errno.ENOTSUP });
  }
  if (identity !== undefined && identity.id.length !== 4) throw systemError(Errno.EINVAL, { fault: 'parent-refused' });
  const cid = identity === undefined ? image.descriptor.parentCid : viewOf(identity.id).getUint32(0);
  if (cid === noParent) throw new BlockError('INVALID_ARGUMENT', 'The content ID of the new backing file must be known', { errno: Errno.EINVAL });
  return { parentCID: formatCid(cid), parentFileNameHint: `"${filename}"` };
}
