/** Opening an image: header, children, marks left by earlier users. */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import { rawDeflate, zstdCodec } from '../../platform/compression.js';
import { keepYoungGarbageSmall } from '../../platform/engine.js';
import { run } from '../../util/steps.js';
import { Qcow2Bitmaps } from './bitmap.js';
import { checkImage } from './check.js';
import { openEncryption } from './encryption.js';
import {
  Autoclear, clusterBitsOf, hasFeature, Incompatible, parseHeader, type Qcow2Header,
} from './header.js';
import { Qcow2Image } from './image.js';
import { Qcow2Ops } from './ops.js';
import { cleanInterval, largestDefaultL2Cache, settingsOf, type Qcow2OpenOptions } from './options.js';

export async function openQcow2(context: OpenContext<Qcow2OpenOptions>): Promise<Qcow2Ops> {
  const file = context.child('file')!;
  let outdated = false;
  const header = await readHeader(file, context, (message) => {
    outdated = true;
    context.warn(message);
  });
  const seconds = cleanInterval(context.options);
  const settings = settingsOf(context.options, header);
  if (hasFeature(header, Incompatible.CORRUPT) && !context.readOnly && !context.mode.check) {
    throw new BlockError('CORRUPT_IMAGE', 'qcow2: Image is corrupt; cannot be opened read/write', { errno: Errno.EACCES });
  }
  const encryption = await openEncryption(file, header, context);
  const dataFile = await openDataFile(file, header, context);
  const backing = await context.implicitChild('backing', {
    kind: 'backing', filename: header.backingFile ?? '', role: 'cow', ...(header.backingFormat !== undefined && { format: header.backingFormat }),
  });
  if (settings.l2Slices * settings.sliceSize >= largestDefaultL2Cache) keepYoungGarbageSmall();
  const image = new Qcow2Image({ context, header, file, dataFile, backing, settings, encryption });
  await run(image.reload());
  const codec = header.compression === 'zstd' ? await zstdCodec() : rawDeflate;
  if (!context.readOnly && !context.mode.noIo) await takeOver(image, outdated);
  const ops = new Qcow2Ops(image, codec, await Qcow2Bitmaps.open(image));
  ops.cleanCaches(seconds);
  return ops;
}

async function readHeader(file: BlockChild, context: OpenContext<object>, onWarning: (message: string) => void): Promise<Qcow2Header> {
  const head = new Uint8Array(Math.min(Math.max(file.size, 0), 112));
  await file.read(0, head);
  const bytes = new Uint8Array(Math.min(2 ** clusterBitsOf(head), file.size));
  await file.read(0, bytes);
  return parseHeader(bytes, onWarning, context.mode.check);
}

async function openDataFile(file: BlockChild, header: Qcow2Header, context: OpenContext<object>): Promise<BlockChild> {
  const given = context.child('data-file');
  if (!hasFeature(header, Incompatible.DATA_FILE)) {
    if (given !== undefined) throw new BlockError('INVALID_ARGUMENT', "'data-file' can only be set for images with an external data file");
    const raw = (header.autoclear & BigInt(Autoclear.DATA_FILE_RAW)) !== 0n;
    if (raw && !context.mode.noIo) throw new BlockError('INVALID_ARGUMENT', 'data-file-raw requires a data file');
    return file;
  }
  if (given !== undefined) return given;
  if (context.mode.noIo) return file;
  if (header.dataFile === undefined) throw new BlockError('INVALID_ARGUMENT', "'data-file' is required for this image");
  const opened = await context.implicitChild('data-file', { kind: 'data-file', filename: header.dataFile, format: 'raw', role: 'data' });
  if (opened === undefined) throw new BlockError('INVALID_ARGUMENT', "'data-file' is required for this image");
  return opened;
}

/**
 * What the first writer after another does: features it does not know are switched off, stale refcounts are rebuilt (but for a check).
 * @param outdated the header on disk mentions what is not to be trusted any more
 */
async function takeOver(image: Qcow2Image, outdated: boolean): Promise<void> {
  const { header } = image;
  const known = (header.bitmaps !== undefined ? Autoclear.BITMAPS : 0) | Autoclear.DATA_FILE_RAW;
  const autoclear = header.autoclear & BigInt(known);
  if (outdated || autoclear !== header.autoclear) {
    await run(image.updateHeader({ autoclear }));
    await image.file.flush();
  }
  if (!hasFeature(header, Incompatible.DIRTY) || image.context.mode.check) return;
  try {
    const result = await checkImage(image, {
      repair: 'all', report: (line) => image.report(line), reportError: (line) => image.report(line, 'error'),
    });
    if (result.checkErrors > 0 || result.corruptions > 0) {
      throw new BlockError('CORRUPT_IMAGE', strerror(Errno.EIO), { errno: Errno.EIO });
    }
  } catch (error) {
    const errno = error instanceof BlockError ? error.errno : Errno.EIO;
    throw new BlockError('CORRUPT_IMAGE', `Could not repair dirty image: ${strerror(errno)}`, { errno }, error);
  }
}
