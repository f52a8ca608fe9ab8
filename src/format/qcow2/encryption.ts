/** Encrypted images: LUKS with its header in clusters of its own, and AES as it was before. */
import type { BlockChild } from '../../block/child.js';
import type { DataCipher } from '../../block/data-cipher.js';
import type { CreateContext, OpenContext } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import type { CreateSchema, OptionValue } from '../../block/options.js';
import { dataCipher, legacyCipher } from '../../crypto/data-cipher.js';
import { amendOptions, cipherOptions, createLuks, headerSize, openLuks, requireSecret, unlockLuks } from '../../crypto/luks.js';
import { luksCreateNames, luksOptions } from '../../crypto/luks-options.js';
import type { HeaderStore, LuksVolume, UnlockedVolume } from '../../crypto/luks-volume.js';
import { findPassphrase } from '../../platform/secrets.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { CryptMethod, type Qcow2Header } from './header.js';
import type { Qcow2Image } from './image.js';

type OptionValues = Readonly<Record<string, OptionValue>>;
const prefix = 'encrypt.';

/** In the order in which creation announces them. */
export const encryptionCreateOptions: CreateSchema = {
  'encryption': { type: 'boolean', help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)" },
  'encrypt.format': { type: 'string', help: "Encrypt the image, format choices: 'aes', 'luks'" },
  'encrypt.key-secret': { type: 'string', help: 'ID of secret providing qcow AES key or LUKS passphrase' },
  ...luksOptions(luksCreateNames, prefix),
};

export const encryptionAmendOptions = luksOptions(['state', 'new-secret', 'old-secret', 'keyslot', 'iter-time'], prefix);

/** An encrypted image's keys. */
export interface Qcow2Encryption {
  readonly format: 'aes' | 'luks';
  readonly volume?: LuksVolume;
  readonly unlocked?: UnlockedVolume;
  /** Absent where the image was opened for information only. */
  readonly cipher?: DataCipher;
}

/** The encryption that create options ask for; undefined: none. @throws BlockError with the peer's text */
export function encryptionFormat(options: OptionValues): 'aes' | 'luks' | undefined {
  const given = Object.keys(options).filter((key) => key.startsWith(prefix) && options[key] !== undefined);
  const legacy = options['encryption'] === true;
  if (given.length === 0 && !legacy) return undefined;
  const format = options['encrypt.format'];
  if (options['encryption'] !== undefined && format !== undefined) {
    throw bad("'encrypt.format' and its alias 'encryption' can't be used at the same time");
  }
  if (format === undefined && !legacy) throw bad("Parameter 'encrypt.format' is missing");
  if (format !== undefined && format !== 'aes' && format !== 'luks') throw bad(`Parameter 'format' does not accept value '${String(format)}'`);
  const chosen = format ?? 'aes';
  if (chosen === 'aes') {
    const surplus = given.find((key) => key !== 'encrypt.format' && key !== 'encrypt.key-secret');
    if (surplus !== undefined) throw bad(`Parameter '${surplus}' is unexpected`);
  } else {
    cipherOptions(options, prefix);
  }
  requireSecret(options['encrypt.key-secret'], 'encrypt.key-secret');
  return chosen;
}

/** Bytes of the LUKS header that create options come to, 0 for other images. @throws BlockError */
export function encryptionHeaderSize(options: OptionValues): number {
  return encryptionFormat(options) === 'luks' ? headerSize(options, prefix) : 0;
}

/** Reads what the image says of its encryption, and unlocks it unless it was opened for information only. @throws BlockError */
export async function openEncryption(file: BlockChild, header: Qcow2Header, context: OpenContext<{ readonly encrypt?: OptionValue }>): Promise<Qcow2Encryption | undefined> {
  const { format: expected, 'key-secret': secret } = encryptOptions(context.options.encrypt);
  const format = header.cryptMethod === CryptMethod.NONE ? undefined : header.cryptMethod === CryptMethod.AES ? 'aes' : 'luks';
  if (expected !== undefined && expected !== format) {
    throw bad(format === undefined ? `No encryption in image header, but options specified format '${String(expected)}'`
      : `Header reported '${format}' encryption format but options specify '${String(expected)}'`);
  }
  const { noIo } = context.mode;
  const option = 'encrypt.key-secret';
  if (format === 'aes') return { format, ...(!noIo && { cipher: legacyCipher(requireSecret(secret, option), context.object) }) };
  if (format === undefined) return undefined;
  const volume = await openLuks(headerStore(file, header), { newest: 1 });
  if (noIo) return { format, volume };
  const unlocked = await unlockLuks(volume, secret, option, context.object);
  return { format, volume, unlocked, cipher: dataCipher(unlocked.cipher, 'host') };
}

function encryptOptions(value: OptionValue): OptionValues {
  const options: OptionValues = typeof value === 'object' && value !== null && !Array.isArray(value) ? value as OptionValues : {};
  const unknown = Object.keys(options).find((name) => name !== 'format' && name !== 'key-secret');
  if (unknown !== undefined) throw bad(`Parameter '${prefix}${unknown}' is unexpected`);
  return options;
}

/** The clusters that the header extension names, as a place of their own. */
function headerStore(file: BlockChild, { crypto }: Qcow2Header): HeaderStore {
  const { offset, length } = crypto!;
  return {
    size: length,
    read: (at, target) => file.read(offset + at, target),
    write: (at, source) => file.write(offset + at, source),
    flush: () => file.flush(),
  };
}

/** Gives a new, empty image the encryption that create options ask for. */
export async function setUpEncryption(image: Qcow2Image, options: OptionValues, context: CreateContext): Promise<void> {
  const format = encryptionFormat(options);
  if (format === undefined) return;
  if (format === 'aes') {
    findPassphrase(requireSecret(options['encrypt.key-secret'], 'encrypt.key-secret'), context.object);
    await image.exclusive(() => run(image.updateHeader({ cryptMethod: CryptMethod.AES })));
    return;
  }
  const bytes = await createLuks(options, prefix, context.object, false);
  await image.exclusive(() => run(placeHeader(image, bytes)));
}

function* placeHeader(image: Qcow2Image, bytes: Uint8Array): Steps<void> {
  const { clusterSize } = image.geometry;
  const clusters = new Uint8Array(Math.ceil(bytes.length / clusterSize) * clusterSize);
  clusters.set(bytes);
  const offset = yield* image.refcounts.allocate(clusters.length);
  yield* image.writeMetadata(offset, clusters);
  yield* image.flushMetadata();
  yield* wait(image.file.flush());
  yield* image.updateHeader({ cryptMethod: CryptMethod.LUKS, crypto: { offset, length: bytes.length } });
}

/** Whether amend options speak of encryption. @throws BlockError where they cannot apply */
export function amendsEncryption({ encryption }: Qcow2Image, options: OptionValues): boolean {
  if (!Object.keys(options).some((name) => name.startsWith(prefix) && options[name] !== undefined)) return false;
  if (encryption === undefined) {
    throw new BlockError('NOT_SUPPORTED', "Can't amend encryption options - encryption not present", { errno: Errno.EINVAL });
  }
  if (encryption.format !== 'luks') throw new BlockError('NOT_SUPPORTED', 'Only LUKS encryption options can be amended', { errno: Errno.ENOTSUP });
  return true;
}

/** Changes keyslots. */
export async function amendEncryption({ encryption, context }: Qcow2Image, options: OptionValues, force: boolean): Promise<void> {
  await encryption?.unlocked?.amend(amendOptions(options, prefix, context.object, force));
}

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: Errno.EINVAL });
}
