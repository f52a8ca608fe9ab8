/** Laying a new, empty image on a file. */
import type { BlockBackend } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import type { OptionValue } from '../../block/options.js';
import { Feature, maxBackingName, serialiseHeader } from './header.js';
import { parseCreateOptions } from './options.js';

/** Header, then an empty L1 table. @throws BlockError with the peer's text */
export async function createQed(target: BlockBackend, options: Readonly<Record<string, OptionValue>> & { readonly size: number }): Promise<void> {
  const { size, clusterSize, tableSize, backingFile, backingFormat } = parseCreateOptions(options);
  if (new TextEncoder().encode(backingFile ?? '').length > maxBackingName) throw new BlockError('INVALID_ARGUMENT', 'Backing file name too long');
  if (target.size > 0) await target.resize(0, { exact: false });
  await target.resize(clusterSize * (1 + tableSize), { exact: false });
  await target.write(0, serialiseHeader({
    clusterSize, tableSize, headerSize: 1, compatible: 0n, autoclear: 0n, l1Offset: clusterSize, size, backingFile,
    features: backingFeatures(backingFile, backingFormat),
  }));
}

/** Feature bits that tell of the backing file. */
export function backingFeatures(backingFile: string | undefined, backingFormat: string | undefined): number {
  if (backingFile === undefined) return 0;
  return Feature.BACKING_FILE | (backingFormat === 'raw' ? Feature.BACKING_RAW : 0);
}
