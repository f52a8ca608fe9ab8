/** Power cuts on qcow2: VDISK_CRASH_STATES states (default 10,000) over all kinds of images; `npm run test:full` takes 500,000. */
import { describe, expect, it } from 'vitest';
import { qcow2 } from '../../src/format/qcow2/index.js';
import { explore } from './explore.js';

const total = Number(process.env['VDISK_CRASH_STATES'] ?? 10_000);
const base = Number(process.env['VDISK_CRASH_SEED'] ?? 1);
const kinds: readonly { readonly create: Record<string, string | number | boolean>; readonly open?: Record<string, unknown> }[] = [
  { create: { cluster_size: 512 } },
  { create: { cluster_size: 4096 } },
  { create: { cluster_size: 4096, refcount_bits: 1 } },
  { create: { cluster_size: 4096, refcount_bits: 64 }, open: { 'cache-size': 16_384 } },
  { create: { cluster_size: 65_536 } },
  { create: { cluster_size: 65_536, lazy_refcounts: true } },
  { create: { cluster_size: 16_384, extended_l2: true } },
  { create: { cluster_size: 4096, compat: '0.10' } },
  { create: { cluster_size: 4096, preallocation: 'metadata' } },
  { create: { cluster_size: 4096 }, open: { 'discard-no-unref': true } },
];
const seedsPerKind = Math.max(2, Math.ceil(total / kinds.length / 250));
const states = Math.ceil(total / kinds.length / seedsPerKind);

describe('qcow2 after a power cut', () => {
  for (const { create, open } of kinds) {
    it(`${states * seedsPerKind} states of ${JSON.stringify({ ...create, ...open })} are consistent and hold what was flushed`, async () => {
      for (let seed = base; seed < base + seedsPerKind; seed++) {
        const failures = await explore({
          driver: qcow2, size: 1 << 19, createOptions: create, ...(open && { openOptions: open }), seed, states, requests: 100,
        });
        expect(failures).toEqual([]);
      }
    }, 3_600_000);
  }
});
