/** The way from a differencing disk to its parent. */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { asPath } from '../../block/filename.js';

/** Keys of the entries that name the parent's content by its DataWriteGuid: either may be right. */
export const linkageKey = 'parent_linkage';
const otherLinkageKey = 'parent_linkage2';

/** Places where the parent may lie, best first, as names this system understands. */
function candidates(locator: ReadonlyMap<string, string>): string[] {
  const relative = locator.get('relative_path');
  const absolute = locator.get('absolute_win32_path');
  return [
    ...(relative === undefined || relative === '' ? [] : [asPath(relative.replaceAll('\\', '/').replace(/^(\.\/)+/, ''))]),
    ...(absolute?.startsWith('/') ? [absolute] : []),
  ];
}

/** The name under which the parent is looked for first. */
export function parentPath(locator: ReadonlyMap<string, string>): string | undefined {
  return candidates(locator)[0] ?? locator.get('absolute_win32_path') ?? locator.get('volume_path');
}

/** How a locator refers to the parent's content. */
function linkageOf(dataWriteGuid: string): string {
  return `{${dataWriteGuid}}`;
}

/** The locator of a new disk whose parent has that name and content. */
export function newLocator(filename: string, dataWriteGuid: string): ReadonlyMap<string, string> {
  return withLinkage(namesOf(filename), dataWriteGuid);
}

/** The locator of a disk whose parent has another name now. */
export function renamedLocator(locator: ReadonlyMap<string, string>, filename: string): ReadonlyMap<string, string> {
  return new Map([...locator].filter(([key]) => key === linkageKey || key === otherLinkageKey).concat([...namesOf(filename)]));
}

/** The locator of a disk whose parent has that content, or the other. */
export function withLinkage(locator: ReadonlyMap<string, string>, dataWriteGuid: string, other?: string): ReadonlyMap<string, string> {
  const entries = new Map([...locator, [linkageKey, linkageOf(dataWriteGuid)]]);
  entries.delete(otherLinkageKey);
  return other === undefined ? entries : entries.set(otherLinkageKey, linkageOf(other));
}

/**
 * Entries that lead to a file. A relative name stands for the absolute one, too: libvhdi looks there only.
 * @throws BlockError INVALID_ARGUMENT where the format cannot say the name
 */
function namesOf(filename: string): ReadonlyMap<string, string> {
  if (filename.startsWith('/')) return new Map([['absolute_win32_path', filename]]);
  if (filename.includes('\\')) throw new BlockError('INVALID_ARGUMENT', `VHDX cannot name a parent with a backslash in its relative name: '${filename}'`, { errno: Errno.EINVAL });
  const relative = `.\\${filename.replaceAll('/', '\\')}`;
  return new Map([['relative_path', relative], ['absolute_win32_path', relative]]);
}

/** Opens the parent, through the gate; undefined where the user left it out. */
export async function openParent(context: OpenContext<object>, locator: ReadonlyMap<string, string>): Promise<BlockChild | undefined> {
  const open = (filename: string): Promise<BlockChild | undefined> =>
    context.implicitChild('backing', { kind: 'backing', filename, format: 'vhdx', role: 'cow' });
  const [first = asPath(parentPath(locator) ?? ''), ...others] = candidates(locator);
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
  const expected = [linkageKey, otherLinkageKey].flatMap((key) => locator.get(key)?.toLowerCase() ?? []);
  if (!expected.includes(linkageOf(dataWriteGuid))) {
    throw new BlockError('CORRUPT_IMAGE', `VHDX parent was changed after its child was made: its content is ${linkageOf(dataWriteGuid)}, expected is ${expected.join(' or ')}`, { errno: Errno.EINVAL });
  }
}
