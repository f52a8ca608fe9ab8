/** Names of ciphers, modes, IV generators and hashes: as options have them, and as LUKS headers do. */
import { BlockError } from '../block/errors.js';
import { digestSize } from '../platform/cryptography.js';
import { keyBytes, type CipherMode, type CipherSpec, type IvGenerator } from './sector-cipher.js';

/** What the peer knows under these names, and which of them work here. */
const algorithms: Readonly<Record<string, number | undefined>> = {
  'aes-128': 16, 'aes-192': 24, 'aes-256': 32,
  'des': undefined, '3des': undefined, 'cast5-128': undefined, 'serpent-128': undefined, 'serpent-192': undefined, 'serpent-256': undefined,
  'twofish-128': undefined, 'twofish-192': undefined, 'twofish-256': undefined, 'sm4': undefined,
};
const modes: readonly string[] = ['ecb', 'cbc', 'xts', 'ctr'] satisfies CipherMode[];
const generators: readonly string[] = ['plain', 'plain64', 'essiv'] satisfies IvGenerator[];
const hashes: readonly string[] = ['md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160', 'sm3'];

export interface CipherNames {
  readonly algorithm?: string | undefined;
  readonly mode?: string | undefined;
  readonly ivGenerator?: string | undefined;
  readonly ivHash?: string | undefined;
  readonly hash?: string | undefined;
}

export interface ChosenCipher {
  readonly cipher: CipherSpec;
  readonly hash: string;
}

function check(option: string, value: string, known: readonly string[]): void {
  if (!known.includes(value)) throw new BlockError('INVALID_ARGUMENT', `Parameter '${option}' does not accept value '${value}'`);
}

/** The cipher that create options mean; what is not given is the peer's default. @throws BlockError */
export function chooseCipher({ algorithm = 'aes-256', mode = 'xts', ivGenerator = 'plain64', ivHash, hash = 'sha256' }: CipherNames): ChosenCipher {
  check('cipher-alg', algorithm, Object.keys(algorithms));
  check('cipher-mode', mode, modes);
  check('ivgen-alg', ivGenerator, generators);
  if (ivHash !== undefined) check('ivgen-hash-alg', ivHash, hashes);
  check('hash-alg', hash, hashes);
  const keySize = algorithms[algorithm];
  if (keySize === undefined) throw unsupported(`Algorithm '${algorithm}' not supported`);
  requireHash(hash);
  const usedIvHash = ivHash ?? (ivGenerator === 'essiv' ? 'sha256' : undefined);
  if (ivGenerator === 'essiv') requireHash(usedIvHash!);
  return {
    cipher: { keySize, mode: mode as CipherMode, ivGenerator: ivGenerator as IvGenerator, ...(usedIvHash !== undefined && { ivHash: usedIvHash }) },
    hash,
  };
}

/** `xts-plain64`, `cbc-essiv:sha256` */
export function modeName({ mode, ivGenerator, ivHash }: CipherSpec): string {
  return ivGenerator === undefined ? mode : `${mode}-${ivGenerator}${ivHash === undefined ? '' : `:${ivHash}`}`;
}

/**
 * The cipher of a header. `bytes`: length of its key, both halves of it for XTS.
 * @throws BlockError UNSUPPORTED_FEATURE with the peer's texts
 */
export function parseCipher(name: string, modeText: string, bytes: number): CipherSpec {
  const [mode = '', iv, ...more] = modeText.split('-');
  // ECB alone needs no IV.
  if (iv === undefined && mode !== 'ecb') throw unsupported(modes.includes(mode) ? `Unexpected cipher mode string format '${modeText}'` : `Cipher mode '${modeText}' not supported`);
  if (!modes.includes(mode)) throw unsupported(`Cipher mode '${mode}' not supported`);
  const [generator, ivHash] = iv === undefined ? [] : [iv, ...more].join('-').split(':', 2);
  if (generator !== undefined && !generators.includes(generator)) throw unsupported(`IV generator '${generator}' not supported`);
  if (ivHash !== undefined) requireHash(ivHash);
  const cipher: CipherSpec = {
    keySize: mode === 'xts' ? bytes / 2 : bytes, mode: mode as CipherMode,
    ...(generator !== undefined && { ivGenerator: generator as IvGenerator }), ...(ivHash !== undefined && { ivHash }),
  };
  if (name !== 'aes' || ![16, 24, 32].includes(cipher.keySize)) {
    throw unsupported(`Algorithm '${name}' with key size ${Math.floor(cipher.keySize)} bytes not supported`);
  }
  if (generator === 'essiv' && ivHash === undefined) throw unsupported('Missing IV generator hash specification');
  return cipher;
}

/** @throws BlockError UNSUPPORTED_FEATURE where the host lacks the hash */
export function requireHash(hash: string): void {
  if (!hashes.includes(hash) || digestSize(hash) === undefined) throw unsupported(`Hash algorithm '${hash}' not supported`);
}

/** The cipher under the names that QAPI has for it. */
export function describeCipher(cipher: CipherSpec): Readonly<Record<string, string>> {
  return {
    'cipher-alg': `aes-${keyBytes({ ...cipher, mode: 'cbc' }) * 8}`,
    'cipher-mode': cipher.mode,
    ...(cipher.ivGenerator !== undefined && { 'ivgen-alg': cipher.ivGenerator }),
    ...(cipher.ivGenerator === 'essiv' && { 'ivgen-hash-alg': cipher.ivHash! }),
  };
}

function unsupported(message: string): BlockError {
  return new BlockError('UNSUPPORTED_FEATURE', message);
}
