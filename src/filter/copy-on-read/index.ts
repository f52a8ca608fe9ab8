/** Driver `copy-on-read`: a filter that keeps what it reads from a backing file in the image above it. */
import type { BlockDriver } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import { CopyOnReadOps } from './ops.js';

export interface CopyOnReadOptions {
  /** Node name of the lowest layer that is copied from; absent: all of the chain. */
  readonly bottom?: string;
}

export const copyOnRead: BlockDriver<CopyOnReadOptions> = {
  name: 'copy-on-read',
  kind: 'filter',
  options: { bottom: { type: 'string', help: 'Node name of the lowest layer that is copied from' } },
  children: { file: { role: 'filtered' } },
  open({ child, options: { bottom } }) {
    const file = child('file')!;
    return new CopyOnReadOps(file, bottom === undefined ? undefined : belowOf(file.node, bottom));
  },
};

/** The node that layers above may not be copied from any more. */
function belowOf(top: BlockNode, bottom: string): BlockNode | undefined {
  for (let node = top.backing; node !== undefined; node = node.backing) if (node.name === bottom) return node.backing;
  throw new BlockError('NOT_FOUND', `Bottom node '${bottom}' not found`);
}
