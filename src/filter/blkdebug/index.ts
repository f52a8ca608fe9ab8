/** Driver `blkdebug`: a filter that fails requests and holds them at named moments, as rules say. Test equipment. */
import { Perm, type BlockDriver } from '../../block/driver.js';
import { BlockError, systemError } from '../../block/errors.js';
import type { OptionValue } from '../../block/options.js';
import { readTextFile } from '../../platform/text-file.js';
import { addRules, parseConfig, type Rules } from './config.js';
import { BlkdebugOps, checkedLimits } from './ops.js';
import { DebugScript } from './script.js';

export interface BlkdebugOptions {
  /** File of rules, in sections [inject-error] and [set-state]. */
  readonly config?: string;
  readonly 'inject-error'?: OptionValue;
  readonly 'set-state'?: OptionValue;
  /** Requests reach the layer as multiples of this many bytes, a power of two. */
  readonly align?: number;
  readonly 'max-transfer'?: number;
  readonly 'opt-write-zero'?: number;
  readonly 'max-write-zero'?: number;
  readonly 'opt-discard'?: number;
  readonly 'max-discard'?: number;
  /** Permissions held on the image in addition ('consistent-read', 'write', 'write-unchanged', 'resize'). */
  readonly 'take-child-perms'?: OptionValue;
  readonly 'unshare-child-perms'?: OptionValue;
}

const permissionBits: Readonly<Record<string, number>> = {
  'consistent-read': Perm.CONSISTENT_READ, write: Perm.WRITE, 'write-unchanged': Perm.WRITE_UNCHANGED, resize: Perm.RESIZE,
};

export const blkdebug: BlockDriver<BlkdebugOptions> = {
  name: 'blkdebug',
  kind: 'filter',
  options: {
    config: { type: 'string', help: 'File of rules' },
    'inject-error': { type: 'any', help: 'Rules that fail requests: event, state, iotype, errno, sector, once, immediately' },
    'set-state': { type: 'any', help: 'Rules that change the state: event, state, new_state' },
    align: { type: 'size', help: 'Request alignment in bytes' },
    'max-transfer': { type: 'size', help: 'Longest read or write in bytes' },
    'opt-write-zero': { type: 'size', help: 'Granularity of write zeroes in bytes' },
    'max-write-zero': { type: 'size', help: 'Longest write zeroes in bytes' },
    'opt-discard': { type: 'size', help: 'Granularity of discard in bytes' },
    'max-discard': { type: 'size', help: 'Longest discard in bytes' },
    'take-child-perms': { type: 'any', help: 'Permissions held on the image in addition' },
    'unshare-child-perms': { type: 'any', help: 'Permissions on the image shared with nobody' },
  },
  children: { image: { role: 'filtered' } },
  protocolPrefixes: ['blkdebug'],
  parseFilename(filename) {
    if (!filename.startsWith('blkdebug:')) return { image: { filename } };
    const [, config, image] = /^blkdebug:([^:]*):(.*)$/s.exec(filename) ?? [];
    if (config === undefined || image === undefined) throw new BlockError('INVALID_ARGUMENT', 'blkdebug requires both config file and image path', { filename });
    return { ...(config !== '' && { config }), image: { filename: image } };
  },
  async open(context) {
    const { options } = context;
    const rules: Rules = { inject: [], state: [] };
    if (options.config !== undefined) parseConfig(await readConfig(options.config), rules);
    addRules('inject-error', options['inject-error'], rules);
    addRules('set-state', options['set-state'], rules);
    const image = context.child('image')!;
    const { config, 'inject-error': _inject, 'set-state': _state, 'take-child-perms': take, 'unshare-child-perms': unshare, ...numbers } = options;
    const isPlain = Object.keys(blkdebug.options).every((name) => name === 'config' || options[name as keyof BlkdebugOptions] === undefined);
    return new BlkdebugOps(image, new DebugScript(rules), checkedLimits(image, numbers), { take: permissions(take), unshare: permissions(unshare) }, config, isPlain);
  },
};

async function readConfig(filename: string): Promise<string> {
  try {
    return await readTextFile(filename);
  } catch (error) {
    const errno = (error as { errno?: unknown }).errno;
    throw systemError(typeof errno === 'number' ? -errno : 5, { filename }, 'Could not read blkdebug config file', error);
  }
}

function permissions(names: OptionValue): number {
  if (names === undefined) return 0;
  if (!Array.isArray(names)) throw new BlockError('INVALID_ARGUMENT', 'Permissions must be a list');
  return (names as readonly OptionValue[]).reduce<number>((bits, name) => {
    const bit = permissionBits[String(name)];
    if (bit === undefined) throw new BlockError('INVALID_ARGUMENT', `Parameter 'null' does not accept value '${String(name)}'`);
    return bits | bit;
  }, 0);
}
