/** A disk as a streamOptimized image that is never gone back in: for pipes and HTTP bodies. */
import type { BlockBackend } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import { dataUnits, streamPiece, type ImageStream } from '../../block/stream.js';
import { isZero } from '../../platform/bytes.js';
import { zlibStream } from '../../platform/compression.js';
import { run } from '../../util/steps.js';
import { planDisk, type OptionValues } from './create.js';
import { formatDescriptor, newCid, noParent } from './descriptor.js';
import { sectorSize, streamHeader } from './header.js';
import { withMarker } from './packer.js';
import { StreamWriter } from './stream.js';

/** @throws BlockError INVALID_ARGUMENT with the peer's texts; NOT_SUPPORTED for what is no stream, or not alone */
export function streamVmdk(source: BlockBackend, options: OptionValues): Promise<ImageStream> {
  const plan = planDisk(source.size, { subformat: 'streamOptimized', ...options });
  if (plan.subformat !== 'streamOptimized') throw new BlockError('NOT_SUPPORTED', `A VMDK stream cannot have the subformat ${plan.subformat}`);
  if (options['backing_file'] !== undefined) throw new BlockError('NOT_SUPPORTED', 'A VMDK stream cannot have a backing file');
  const header = streamHeader(plan.sectors, plan.zeroedGrain);
  const descriptor = new TextEncoder().encode(formatDescriptor({
    ...plan, cid: newCid(), parentCid: noParent, createType: plan.subformat,
    extents: [{ access: 'RW', sectors: plan.sectors, type: 'SPARSE', filename: 'stream.vmdk', offset: 0 }],
  }));
  return Promise.resolve({
    async *chunks() {
      const ready: Uint8Array[] = [];
      const writer = new StreamWriter(header, (bytes) => void ready.push(bytes));
      await run(writer.begin(descriptor));
      let piece: Promise<PackedGrain[]> | undefined;
      for await (const { packing } of packedPieces(source, header.grain * sectorSize)) {
        // the next piece is compressed while this one is written
        const grains = await piece;
        piece = packing;
        for (const { grain, packed } of grains ?? []) await run(writer.grain(grain, packed));
        yield* ready.splice(0);
      }
      for (const { grain, packed } of await piece ?? []) await run(writer.grain(grain, packed));
      await run(writer.finish());
      yield* ready;
    },
  });
}

interface PackedGrain { readonly grain: number; readonly packed: Uint8Array }

/** Grains that hold other than zeroes, some at a time, being compressed. (What a generator yields is waited for, unless it is wrapped.) */
async function* packedPieces(source: BlockBackend, grainSize: number): AsyncGenerator<{ readonly packing: Promise<PackedGrain[]> }, void, undefined> {
  const buffer = new Uint8Array(streamPiece);
  for await (const { first, count } of dataUnits(source, grainSize)) {
    for (let grain = first; grain < first + count; grain += buffer.length / grainSize) {
      const bytes = buffer.subarray(0, Math.min(buffer.length, (first + count - grain) * grainSize));
      const inside = Math.min(bytes.length, source.size - grain * grainSize);
      await source.read(grain * grainSize, bytes.subarray(0, inside));
      bytes.fill(0, inside);
      yield { packing: packAll(grain, bytes, grainSize) };
    }
  }
}

/** The bytes are free again when this returns. */
function packAll(first: number, bytes: Uint8Array, grainSize: number): Promise<PackedGrain[]> {
  const grains: number[] = [];
  const contents = new Uint8Array(bytes.length);
  for (let at = 0; at < bytes.length; at += grainSize) {
    const content = bytes.subarray(at, at + grainSize);
    if (isZero(content)) continue;
    contents.set(content, grains.length * grainSize);
    grains.push(first + at / grainSize);
  }
  const packing = zlibStream.compressBlocks(contents.subarray(0, grains.length * grainSize), grainSize)
    .then((blocks) => blocks.map((packed, index) => ({ grain: grains[index]!, packed: withMarker(grains[index]! * grainSize / sectorSize, packed!) })));
  // whoever gives up half-way does not wait for it
  packing.catch(() => undefined);
  return packing;
}
