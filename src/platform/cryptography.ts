/**
 * The host's cryptography: hashes, key derivation from passphrases, randomness, and AES over many blocks at once.
 *
 * AES goes straight to the OpenSSL that Node itself is linked with, where koffi reaches it: in place and several times faster than
 * through node:crypto, which allocates every result.
 */
import type * as Crypto from 'node:crypto';
import { koffi, type ForeignFunction, type Koffi } from './koffi.js';

/** Loaded on first use: most runs need none of it. */
const crypto = (): typeof Crypto => process.getBuiltinModule('node:crypto');

/** Bytes of a digest; undefined where the host lacks the hash. */
export function digestSize(hash: string): number | undefined {
  try {
    return crypto().createHash(hash).digest().length;
  } catch {
    return undefined;
  }
}

export function digest(hash: string, content: Uint8Array): Uint8Array {
  return crypto().hash(hash, content, 'buffer');
}

/** PBKDF2, on another thread. */
export function pbkdf2(hash: string, passphrase: Uint8Array, salt: Uint8Array, iterations: number, length: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    crypto().pbkdf2(passphrase, salt, iterations, length, hash, (error, key) => (error ? reject(error) : resolve(key)));
  });
}

const rates = new Map<string, number>();

/** Iterations of PBKDF2 that take this machine about a second of processor time; measured once. */
export function pbkdf2Rate(hash: string, length: number): number {
  const known = rates.get(`${hash} ${length}`) ?? measurePbkdf2(hash, length);
  rates.set(`${hash} ${length}`, known);
  return known;
}

function measurePbkdf2(hash: string, length: number): number {
  const salt = new Uint8Array(32);
  for (let iterations = 1 << 14;; iterations *= 4) {
    const before = process.cpuUsage();
    crypto().pbkdf2Sync('measured', salt, iterations, length, hash);
    const { user, system } = process.cpuUsage(before);
    const micros = user + system;
    if (micros >= 20_000 || iterations >= 1 << 28) return Math.max(1, Math.floor(iterations / Math.max(micros, 1) * 1e6));
  }
}

export function randomBytes(length: number): Uint8Array {
  return crypto().randomBytes(length);
}

export function randomUuid(): string {
  return crypto().randomUUID();
}

/** Whether two secrets are equal, in time that does not tell where they differ. */
export function equalSecrets(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && crypto().timingSafeEqual(a, b);
}

/** AES-256-CBC of a whole message, its padding left in place. */
export function decryptCbc(key: Uint8Array, iv: Uint8Array, source: Uint8Array): Uint8Array {
  const decipher = crypto().createDecipheriv('aes-256-cbc', key, iv).setAutoPadding(false);
  return Buffer.concat([decipher.update(source), decipher.final()]);
}

/** AES under one key: each block of 16 bytes by itself, any number of them at a time, in place. */
export interface BlockCipher {
  encrypt(blocks: Uint8Array): void;
  decrypt(blocks: Uint8Array): void;
}

/** Key sizes: 16, 24 or 32 bytes. */
export function aes(key: Uint8Array): BlockCipher {
  const library = (openSsl ??= loadOpenSsl()).library;
  return library === undefined ? new NodeAes(key) : new OpenSslAes(library, key);
}

class NodeAes implements BlockCipher {
  readonly #encryptor: Crypto.Cipher;
  readonly #decryptor: Crypto.Decipher;

  constructor(key: Uint8Array) {
    const name = `aes-${key.length * 8}-ecb`;
    this.#encryptor = crypto().createCipheriv(name, key, null).setAutoPadding(false);
    this.#decryptor = crypto().createDecipheriv(name, key, null).setAutoPadding(false);
  }

  encrypt(blocks: Uint8Array): void {
    blocks.set(this.#encryptor.update(blocks));
  }

  decrypt(blocks: Uint8Array): void {
    blocks.set(this.#decryptor.update(blocks));
  }
}

class OpenSsl {
  readonly #koffi: Koffi;
  readonly #newContext: ForeignFunction;
  readonly #init: ForeignFunction;
  readonly #setPadding: ForeignFunction;
  readonly #update: ForeignFunction;
  readonly #free: ForeignFunction;
  readonly #ciphers: Readonly<Record<number, ForeignFunction>>;
  readonly #addresses = new WeakMap<ArrayBufferLike, number>();
  readonly #length = new Int32Array(1);
  readonly #lengthAddress: number;
  readonly #unused: FinalizationRegistry<number>;

  constructor(library: Koffi) {
    this.#koffi = library;
    const process = library.load(null);
    this.#newContext = process.func('EVP_CIPHER_CTX_new', 'size_t', []);
    this.#init = process.func('EVP_CipherInit_ex', 'int', ['size_t', 'size_t', 'size_t', 'size_t', 'size_t', 'int']);
    this.#setPadding = process.func('EVP_CIPHER_CTX_set_padding', 'int', ['size_t', 'int']);
    this.#update = process.func('EVP_CipherUpdate', 'int', ['size_t', 'size_t', 'size_t', 'size_t', 'int']);
    this.#free = process.func('EVP_CIPHER_CTX_free', 'void', ['size_t']);
    this.#ciphers = Object.fromEntries([16, 24, 32].map((bytes) => [bytes, process.func(`EVP_aes_${bytes * 8}_ecb`, 'size_t', [])]));
    this.#lengthAddress = this.#addressOf(this.#length);
    this.#unused = new FinalizationRegistry((context) => void this.#free(context));
  }

  /** A context that is freed when `owner` is gone. */
  context(owner: object, key: Uint8Array, encrypts: boolean): number {
    const context = this.#newContext();
    this.#unused.register(owner, context);
    const ready = this.#init(context, this.#ciphers[key.length]!(), 0, this.#addressOf(key), 0, encrypts ? 1 : 0);
    if (ready !== 1) throw new Error('OpenSSL does not take the key');
    this.#setPadding(context, 0);
    return context;
  }

  update(context: number, blocks: Uint8Array): void {
    const address = this.#addressOf(blocks);
    if (this.#update(context, address, this.#lengthAddress, address, blocks.length) !== 1) throw new Error('OpenSSL fails to encrypt');
  }

  /** Memory behind an ArrayBuffer never moves. */
  #addressOf(memory: ArrayBufferView): number {
    const { buffer } = memory;
    let address = this.#addresses.get(buffer);
    if (address === undefined) this.#addresses.set(buffer, address = Number(this.#koffi.address(buffer)));
    return address + memory.byteOffset;
  }
}

class OpenSslAes implements BlockCipher {
  readonly #library: OpenSsl;
  readonly #encryptor: number;
  readonly #decryptor: number;

  constructor(library: OpenSsl, key: Uint8Array) {
    this.#library = library;
    this.#encryptor = library.context(this, key, true);
    this.#decryptor = library.context(this, key, false);
  }

  encrypt(blocks: Uint8Array): void {
    this.#library.update(this.#encryptor, blocks);
  }

  decrypt(blocks: Uint8Array): void {
    this.#library.update(this.#decryptor, blocks);
  }
}

let openSsl: { readonly library: OpenSsl | undefined } | undefined;

/** Checked against node:crypto before it is trusted: another program may bring functions of these names. */
function loadOpenSsl(): { readonly library: OpenSsl | undefined } {
  const found = koffi();
  if (found === undefined) return { library: undefined };
  try {
    const library = new OpenSsl(found);
    const key = new Uint8Array(32).fill(7);
    const [expected, blocks] = [new Uint8Array(32).fill(9), new Uint8Array(32).fill(9)];
    new NodeAes(key).encrypt(expected);
    new OpenSslAes(library, key).encrypt(blocks);
    return { library: Buffer.compare(expected, blocks) === 0 ? library : undefined };
  } catch {
    return { library: undefined };
  }
}
