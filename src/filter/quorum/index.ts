/** Driver `quorum`: several copies of a disk; what enough of them agree on is what it holds. */
import type { BlockDriver } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { QuorumOps } from './ops.js';

export interface QuorumOptions {
  /** So many copies must agree. */
  readonly 'vote-threshold': number;
  /** 'quorum' asks all and compares, 'fifo' takes the first that answers. */
  readonly 'read-pattern'?: string;
  /** Not supported. */
  readonly blkverify?: boolean;
  /** Not supported. */
  readonly 'rewrite-corrupted'?: boolean;
}

export const quorum: BlockDriver<QuorumOptions> = {
  name: 'quorum',
  kind: 'filter',
  options: {
    'vote-threshold': { type: 'number', required: true, help: 'The number of vote needed for reaching quorum' },
    'read-pattern': { type: 'enum', values: ['quorum', 'fifo'], default: 'quorum', help: 'Allowed pattern: quorum, fifo. Quorum is default' },
    'blkverify': { type: 'boolean', help: 'Trigger block verify mode if set' },
    'rewrite-corrupted': { type: 'boolean', help: 'Rewrite corrupted block on read quorum' },
  },
  children: { children: { role: 'data', many: true, probed: true } },
  open({ child, options }) {
    const copies = [];
    for (let copy; (copy = child(`children.${copies.length}`)) !== undefined;) copies.push(copy);
    if (copies.length < 1) throw bad('Number of provided children must be 1 or more');
    const threshold = options['vote-threshold'];
    if (threshold < 1) throw bad("Parameter 'vote-threshold' expects a value >= 1");
    if (threshold > copies.length) throw bad('threshold may not exceed children count');
    if (options.blkverify === true || options['rewrite-corrupted'] === true) {
      throw new BlockError('NOT_SUPPORTED', "quorum supports neither 'blkverify' nor 'rewrite-corrupted'", { errno: Errno.ENOTSUP });
    }
    return new QuorumOps(copies, threshold, options['read-pattern'] === 'fifo');
  },
};

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: Errno.EINVAL });
}
