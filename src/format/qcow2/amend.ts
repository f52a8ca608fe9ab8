/** Changing creation options of an existing image. */
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { AmendFacet } from '../../block/facets.js';
import type { CreateSchema, OptionValue } from '../../block/options.js';
import { run } from '../../util/steps.js';
import { createOptions, refcountOrderOption, type OptionValues } from './create-options.js';
import { amendEncryption, amendsEncryption, encryptionAmendOptions } from './encryption.js';
import { expandZeroClusters, hasCompressedClusters } from './expand-zeroes.js';
import { Autoclear, Compatible, hasFeature, Incompatible } from './header.js';
import type { Qcow2Image } from './image.js';
import { changeRefcountOrder } from './new-refcounts.js';
import { resizeQcow2, type ResizeParts } from './resize.js';
import { writeSnapshotTable } from './snapshot-table.js';

const amendable = ['size', 'compat', 'backing_file', 'backing_fmt', 'data_file', 'data_file_raw', 'lazy_refcounts', 'refcount_bits'] as const;

export const amendOptions: CreateSchema = {
  ...encryptionAmendOptions,
  ...Object.fromEntries(amendable.map((name): [string, CreateSchema[string]] => {
    const { type, help } = createOptions[name]!;
    return [name, { type, help }];
  })),
};

type Control = Parameters<AmendFacet['amend']>[1];

/** What is to become of the image; undefined leaves things as they are. */
interface Plan {
  readonly version: 2 | 3;
  readonly dataFile: string | undefined;
  readonly dataFileRaw: boolean | undefined;
  readonly lazyRefcounts: boolean | undefined;
  readonly refcountOrder: number;
  readonly encrypts: boolean;
  readonly size: number | undefined;
}

/** @throws BlockError with the peer's text; what was changed before the failure stays changed */
export async function amendQcow2(parts: ResizeParts, options: OptionValues, control: Control): Promise<void> {
  const { image } = parts;
  const plan = checkOptions(image, options);
  const { header } = image;
  const operations = Number(plan.refcountOrder !== header.refcountOrder) + Number(plan.version < header.version);
  let finished = 0;
  const progress = (done: number, total: number): void => control.progress?.(finished * total + done, Math.max(operations, 1) * total);

  if (plan.version > header.version) await upgrade(image);
  if (plan.refcountOrder !== header.refcountOrder) {
    await image.exclusive(() => changeRefcountOrder(image, plan.refcountOrder, progress));
    finished++;
  }
  if (plan.encrypts) await amendEncryption(image, options, control.force ?? false);
  await changeHeader(image, plan);
  if (plan.lazyRefcounts !== undefined) await setLazyRefcounts(image, plan.lazyRefcounts);
  if (plan.size !== undefined) {
    const zeroNew = image.backing !== undefined && image.backing.size > image.size;
    await resizeQcow2(parts, plan.size, { preallocation: 'off', exact: false, zeroNew });
  }
  if (plan.version < image.header.version) await downgrade(image, progress);
}

function checkOptions(image: Qcow2Image, options: OptionValues): Plan {
  const { header } = image;
  const given = (name: (typeof amendable)[number]): OptionValue => options[name];
  const compat = given('compat');
  const version = compat === undefined ? header.version : compat === '0.10' || compat === 'v2' ? 2 : compat === '1.1' || compat === 'v3' ? 3 : undefined;
  if (version === undefined) throw bad(`Unknown compatibility level ${String(compat)}`);
  const encrypts = amendsEncryption(image, options);
  const refcountOrder = given('refcount_bits') === undefined ? header.refcountOrder : refcountOrderOption(given('refcount_bits'));
  const dataFileRaw = given('data_file_raw') as boolean | undefined;
  const isRaw = (header.autoclear & BigInt(Autoclear.DATA_FILE_RAW)) !== 0n;
  if (dataFileRaw === true && !isRaw) throw bad('data-file-raw cannot be set on existing images');
  const dataFile = given('data_file') as string | undefined;
  if (dataFile !== undefined && !image.geometry.external) throw bad('data-file can only be set for images that use an external data file');
  if (refcountOrder !== 4 && version < 3 && given('refcount_bits') !== undefined) {
    throw bad('Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)');
  }
  const backing = [given('backing_file'), given('backing_fmt')];
  const isKept = backing[0] === header.backingFile && backing[1] === header.backingFormat;
  if (!isKept && backing.some((part) => part !== undefined)) {
    throw new BlockError('INVALID_ARGUMENT', 'Cannot amend the backing file', { errno: Errno.EINVAL, hint: "You can use 'qemu-img rebase' instead." });
  }
  const lazyRefcounts = given('lazy_refcounts') as boolean | undefined;
  if (lazyRefcounts === true && version < 3) {
    throw bad('Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)');
  }
  if (version < 3 && refcountOrder !== 4) throw bad('compat=0.10 requires refcount_bits=16');
  return { version, dataFile, dataFileRaw, lazyRefcounts, refcountOrder, encrypts, size: (given('size') as number | undefined) || undefined };
}

/** Version 3 wants more data in the snapshot table than version 2 needs. */
async function upgrade(image: Qcow2Image): Promise<void> {
  const { entries } = image.snapshots;
  if (entries.some(({ extraSize }) => extraSize < 24)) {
    await explained('Failed to update the snapshot table', () => image.exclusive(() => run(writeSnapshotTable(image, entries))));
  }
  await explained('Failed to update the image header', () => image.exclusive(() => run(image.updateHeader({ version: 3 }))));
}

async function changeHeader(image: Qcow2Image, { dataFile, dataFileRaw }: Plan): Promise<void> {
  const { header } = image;
  const raw = BigInt(Autoclear.DATA_FILE_RAW);
  const clearsRaw = dataFileRaw === false && (header.autoclear & raw) !== 0n;
  if (dataFile === undefined && !clearsRaw) return;
  const patch = {
    ...(dataFile !== undefined && { dataFile: dataFile === '' ? undefined : dataFile }),
    ...(clearsRaw && { autoclear: header.autoclear & ~raw }),
  };
  await explained('Failed to update the image header', () => image.exclusive(() => run(image.updateHeader(patch))));
}

async function setLazyRefcounts(image: Qcow2Image, lazy: boolean): Promise<void> {
  const bit = BigInt(Compatible.LAZY_REFCOUNTS);
  const { compatible } = image.header;
  if (((compatible & bit) !== 0n) === lazy) return;
  if (!lazy) await explained('Failed to make the image clean', () => image.exclusive(() => run(image.markClean())));
  image.settings.lazyRefcounts = lazy;
  await explained('Failed to update the image header', () =>
    image.exclusive(() => run(image.updateHeader({ compatible: lazy ? compatible | bit : compatible & ~bit }))));
}

async function downgrade(image: Qcow2Image, progress: (done: number, total: number) => void): Promise<void> {
  const { header, snapshots: { entries } } = image;
  const refuse = (message: string): BlockError => new BlockError('NOT_SUPPORTED', message, { errno: Errno.ENOTSUP });
  if (image.geometry.external) throw refuse('Cannot downgrade an image with a data file');
  if (entries.some(({ vmStateSize, diskSize }) => vmStateSize >= 2 ** 32 || (diskSize ?? image.size) !== image.size)) {
    throw refuse('Internal snapshots prevent downgrade of image');
  }
  const blocking = header.incompatible & ~BigInt(Incompatible.DIRTY | Incompatible.COMPRESSION);
  if (blocking !== 0n) throw refuse(`Cannot downgrade an image with incompatible features 0x${blocking.toString(16)} set`);
  if (hasFeature(header, Incompatible.COMPRESSION) && (await hasCompressedClusters(image))) {
    throw refuse('Cannot downgrade an image with zstd compression type and existing compressed clusters');
  }
  await explained('Failed to make the image clean', () => image.exclusive(() => run(image.markClean())));
  image.settings.lazyRefcounts = false;
  await explained('Failed to turn zero into data clusters', () => image.exclusive(() => expandZeroClusters(image, progress)));
  await explained('Failed to update the image header', () => image.exclusive(() => run(image.updateHeader({
    version: 2, incompatible: 0n, compatible: 0n, autoclear: 0n, compression: 'zlib', unknownFields: new Uint8Array(),
  }))));
}

/** Runs a step; its failure is told as `text: reason`. */
async function explained(text: string, action: () => unknown): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new BlockError(error.code, `${text}: ${strerror(error.errno)}`, error.context, error);
  }
}

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: Errno.EINVAL });
}
