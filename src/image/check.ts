/** Checking an image's own structure and repairing it. */
import type { BlockNode } from '../block/node.js';
import type { CheckResult } from '../block/facets.js';
import { BlockError } from '../block/errors.js';

export type Repair = 'none' | 'leaks' | 'all';

export interface CheckControl {
  readonly repair: Repair;
  /** Takes a line for each finding. */
  readonly report?: (line: string) => void;
  /** Takes findings that the peer shows as its own errors. */
  readonly reportError?: (line: string) => void;
  /** Called after repairs, before the image is checked again. */
  readonly repaired?: (result: CheckResult) => void;
  readonly signal?: AbortSignal;
}

/**
 * Checks and, if asked, repairs; what was repaired is checked again.
 * @throws BlockError NOT_SUPPORTED where the format has no check; others where the check itself failed
 */
export async function checkImage(node: BlockNode, { repair, report, reportError, repaired, signal }: CheckControl): Promise<CheckResult> {
  const facet = node.facet('check');
  if (facet === undefined) throw new BlockError('NOT_SUPPORTED', 'This image format does not support checks', { node: node.name });
  const common = { ...(report && { report }), ...(reportError && { reportError }), ...(signal && { signal }) };
  const first = await facet.check({ repair, ...common });
  if (first.corruptionsFixed === 0 && first.leaksFixed === 0) return first;
  repaired?.(first);
  const again = await facet.check({ repair: 'none', ...common });
  return { ...again, corruptionsFixed: first.corruptionsFixed, leaksFixed: first.leaksFixed };
}
