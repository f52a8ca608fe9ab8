/** Argon2, the memory-hard key derivation: from Node, the system's libargon2, or WebAssembly, whichever is there first. */
import { createRequire } from 'node:module';
import { BlockError } from '../block/errors.js';
import { callLater, koffi, type ForeignFunction } from './koffi.js';

export interface Argon2Cost {
  readonly type: 'argon2i' | 'argon2id';
  /** Passes over the memory. */
  readonly time: number;
  /** KiB. */
  readonly memory: number;
  readonly lanes: number;
}

type Derive = (passphrase: Uint8Array, salt: Uint8Array, cost: Argon2Cost, length: number) => Promise<Uint8Array>;

/** More is not asked of anyone who opens a disk. */
const mostMemory = 4 * 1024 * 1024;
const mostTime = 10_000;
const mostLanes = 64;

let derive: Derive | undefined;

/** @throws BlockError NOT_SUPPORTED where nothing here can do it, CORRUPT_IMAGE where the cost is out of all reason */
export function argon2(passphrase: Uint8Array, salt: Uint8Array, cost: Argon2Cost, length: number): Promise<Uint8Array> {
  const { time, memory, lanes } = cost;
  if (memory > mostMemory || time > mostTime || lanes > mostLanes || time < 1 || lanes < 1 || memory < 8 * lanes || salt.length < 8) {
    throw new BlockError('CORRUPT_IMAGE', `Key derivation cost is out of range (${time} passes over ${memory} KiB, ${lanes} lanes)`);
  }
  derive ??= ofNode() ?? ofSystem() ?? ofWebAssembly();
  return derive(passphrase, salt, cost, length);
}

interface NodeArgon2 {
  argon2?: (
    type: string, parameters: { message: Uint8Array; nonce: Uint8Array; parallelism: number; tagLength: number; memory: number; passes: number },
    done: (error: Error | null, key: Uint8Array) => void,
  ) => void;
}

function ofNode(): Derive | undefined {
  const { argon2: native } = process.getBuiltinModule('node:crypto') as NodeArgon2;
  if (native === undefined) return undefined;
  return (message, nonce, { type, time, memory, lanes }, length) => new Promise((resolve, reject) => {
    native(type, { message, nonce, parallelism: lanes, tagLength: length, memory, passes: time }, (error, key) => (error ? reject(error) : resolve(key)));
  });
}

function ofSystem(): Derive | undefined {
  const library = koffi();
  if (library === undefined) return undefined;
  let functions: Readonly<Record<Argon2Cost['type'], ForeignFunction>>;
  try {
    const system = library.load('libargon2.so.1');
    const raw = (name: string): ForeignFunction =>
      system.func(name, 'int', ['uint32_t', 'uint32_t', 'uint32_t', 'uint8_t *', 'size_t', 'uint8_t *', 'size_t', 'uint8_t *', 'size_t']);
    functions = { argon2i: raw('argon2i_hash_raw'), argon2id: raw('argon2id_hash_raw') };
  } catch {
    return undefined;
  }
  return (passphrase, salt, { type, time, memory, lanes }, length) => new Promise((resolve, reject) => {
    const key = new Uint8Array(length);
    const given = [new Uint8Array(passphrase), new Uint8Array(salt)] as const;
    callLater({
      call: functions[type], parameters: [time, memory, lanes, given[0], passphrase.length, given[1], salt.length, key, length],
      ended: (failure, code) => {
        if (failure) reject(failure);
        else if (code !== 0) reject(new BlockError('NOT_SUPPORTED', `argon2 fails with code ${code}`));
        else resolve(key);
      },
    });
  });
}

interface WasmArgon2 {
  (options: { password: Uint8Array; salt: Uint8Array; parallelism: number; iterations: number; memorySize: number; hashLength: number; outputType: 'binary' }): Promise<Uint8Array>;
}

/** Works on this thread, and for seconds where the header asks for it. */
function ofWebAssembly(): Derive {
  let found: Readonly<Record<Argon2Cost['type'], WasmArgon2>>;
  try {
    found = createRequire(import.meta.url)('hash-wasm') as typeof found;
  } catch (error) {
    throw new BlockError('NOT_SUPPORTED', 'argon2 needs Node 24.7, the library libargon2, or the optional package hash-wasm', {}, error);
  }
  return (password, salt, { type, time, memory, lanes }, length) =>
    found[type]({ password, salt, parallelism: lanes, iterations: time, memorySize: memory, hashLength: length, outputType: 'binary' });
}
