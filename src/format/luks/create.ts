/** Laying a new volume on a file. */
import type { BlockBackend, BlockChild } from '../../block/child.js';
import type { CreateContext, MeasureResult } from '../../block/driver.js';
import type { OptionValue } from '../../block/options.js';
import { createLuks, headerSize, requireSecret } from '../../crypto/luks.js';

type OptionValues = Readonly<Record<string, OptionValue>>;

/** @throws BlockError with the peer's text */
export async function createLuksImage(target: BlockBackend, options: OptionValues & { readonly size: number }, context: CreateContext): Promise<void> {
  const detached = options['detached-header'] === true;
  const header = await createLuks(options, '', context.object, detached);
  const size = header.length + (detached ? 0 : payloadSize(options.size, options));
  await target.resize(size);
  await target.write(0, header);
}

/** Everything is stored: encrypted zeroes are no zeroes. */
export function measureLuks(source: BlockChild | undefined, options: OptionValues & { readonly size?: number }): Promise<MeasureResult> {
  requireSecret(options['key-secret'], 'key-secret');
  const size = source?.size ?? options.size ?? 0;
  const bytes = headerSize(options, '') + payloadSize(size, options);
  return Promise.resolve({ required: bytes, fullyAllocated: bytes });
}

/** Whole encryption sectors. */
function payloadSize(size: number, options: OptionValues): number {
  const given = options['sector-size'];
  const sectorSize = typeof given === 'number' ? given : 512;
  return Math.ceil(size / sectorSize) * sectorSize;
}
