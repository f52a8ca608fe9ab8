/** Options of opening, and of a new image. */
import { BlockError } from '../../block/errors.js';
import type { CreateSchema, OptionSchema, OptionValue } from '../../block/options.js';

export interface QcowOpenOptions {
  /** {format: 'aes', 'key-secret': id of a secret} */
  readonly encrypt?: OptionValue;
}

export const openOptions: OptionSchema<QcowOpenOptions> = {
  encrypt: { type: 'object', help: 'Image decryption options' },
};

/** In the order in which creation announces them. */
export const createOptions: CreateSchema = {
  'size': { type: 'size', help: 'Virtual disk size' },
  'backing_file': { type: 'string', help: 'File name of a base image' },
  'backing_fmt': { type: 'string', help: 'Format of the backing image', refusal: (format) => `unrecognized backing format '${format}'` },
  'encryption': { type: 'boolean', help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)" },
  'encrypt.format': { type: 'string', help: "Encrypt the image, format choices: 'aes'" },
  'encrypt.key-secret': { type: 'string', help: 'ID of the secret that provides the AES encryption key' },
};

/** The secret's id in create options; undefined: not encrypted. @throws BlockError with the peer's text */
export function createSecret(options: Readonly<Record<string, OptionValue>>): string | undefined {
  const { encryption, 'encrypt.format': format, 'encrypt.key-secret': secret } = options;
  if (encryption !== undefined && format !== undefined) throw bad("'encrypt.format' and its alias 'encryption' can't be used at the same time");
  if (encryption !== true && format === undefined) {
    if (secret !== undefined) throw bad("Parameter 'encrypt.format' is missing");
    return undefined;
  }
  if (format !== undefined && format !== 'aes') throw bad('Unsupported encryption format');
  return requireSecret(secret);
}

/** The secret's id in open options. @throws BlockError with the peer's text */
export function openSecret({ encrypt }: QcowOpenOptions): string {
  const given = typeof encrypt === 'object' && encrypt !== null && !Array.isArray(encrypt) ? encrypt as Readonly<Record<string, OptionValue>> : {};
  const { format, 'key-secret': secret } = given;
  if (format !== undefined && format !== 'aes') throw bad(`Header reported 'aes' encryption format but options specify '${String(format)}'`);
  return requireSecret(secret);
}

function requireSecret(secret: OptionValue): string {
  if (typeof secret !== 'string') throw bad("Parameter 'encrypt.key-secret' is required for cipher");
  return secret;
}

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message);
}
