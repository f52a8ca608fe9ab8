/** The reference to a backing file, as the image stores it. */
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { BackingFacet } from '../../block/facets.js';
import { run } from '../../util/steps.js';
import { Autoclear, maxBackingNameSize } from './header.js';
import type { Qcow2Image } from './image.js';

export function qcow2Backing(image: Qcow2Image): BackingFacet {
  return {
    get filename() { return image.header.backingFile; },
    get format() { return image.header.backingFormat; },
    async change(filename, format) {
      const { header } = image;
      const rawData = image.geometry.external && (header.autoclear & BigInt(Autoclear.DATA_FILE_RAW)) !== 0n;
      const tooLong = filename !== undefined && new TextEncoder().encode(filename).length > maxBackingNameSize;
      if ((rawData && filename !== undefined) || tooLong) throw new BlockError('INVALID_ARGUMENT', strerror(Errno.EINVAL), { errno: Errno.EINVAL });
      await image.exclusive(() => run(image.updateHeader({ backingFile: filename, backingFormat: format })));
      await image.file.flush();
    },
  };
}
