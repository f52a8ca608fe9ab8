/** The way from a differencing disk to its parent. */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { linkageKey } from './metadata.js';

/** Places where the parent may lie, best first, as names this system understands. */
function candidates(locator: ReadonlyMap<string, string>): string[] {
  const relative = locator.get('relative_path');
  const absolute = locator.get('absolute_win32_path');
  return [
    ...(relative === undefined || relative === '' ? [] : [relative.replaceAll('\\', '/').replace(/^(\.\/)+/, '')]),
    ...(absolute?.startsWith('/') ? [absolute] : []),
  ];
}

/** The name under which the parent is looked for first. */
export function parentPath(locator: ReadonlyMap<string, string>): string | undefined {
  return candidates(locator)[0] ?? locator.get('absolute_win32_path') ?? locator.get('volume_path');
}

/** How a locator refers to the parent's content. */
export function linkageOf(dataWriteGuid: string): string {
  return `{${dataWriteGuid}}`;
}

/** The locator of a new disk whose parent has that name and content. A relative name stands for the absolute one, too: libvhdi looks there only. */
export function newLocator(filename: string, dataWriteGuid: string): ReadonlyMap<string, string> {
  const entries = new Map([[linkageKey, linkageOf(dataWriteGuid)]]);
  if (filename.startsWith('/')) return entries.set('absolute_win32_path', filename);
  const relative = `.\\${filename.replaceAll('/', '\\')}`;
  return entries.set('relative_path', relative).set('absolute_win32_path', relative);
}

/** Opens the parent, through the gate; undefined where the user left it out. */
export async function openParent(context: OpenContext<object>, locator: ReadonlyMap<string, string>): Promise<BlockChild | undefined> {
  const open = (filename: string): Promise<BlockChild | undefined> =>
    context.implicitChild('backing', { kind: 'backing', filename, format: 'vhdx', role: 'cow' });
  const [first = parentPath(locator) ?? '', ...others] = candidates(locator);
  if (first === '') throw new BlockError('CORRUPT_IMAGE', 'VHDX parent locator names no parent', { errno: Errno.EINVAL });
  try {
    return await open(first);
  } catch (error) {
    for (const filename of error instanceof BlockError && error.code === 'NOT_FOUND' ? others : []) return open(filename);
    throw error;
  }
}

/** @throws BlockError where the parent is not, or no longer, the one the child was made of */
export function requireLinkage(locator: ReadonlyMap<string, string>, dataWriteGuid: string): void {
  const expected = [linkageKey, 'parent_linkage2'].flatMap((key) => locator.get(key)?.toLowerCase() ?? []);
  if (!expected.includes(linkageOf(dataWriteGuid))) {
    throw new BlockError('CORRUPT_IMAGE', `VHDX parent was changed after its child was made: its content is ${linkageOf(dataWriteGuid)}, expected is ${expected.join(' or ')}`, { errno: Errno.EINVAL });
  }
}
