/** A VHD as a stream. A dynamic one says in front which blocks follow, so that its map comes first and its data in the order of the disk. */
import type { BlockBackend } from '../../block/child.js';
import { dataUnits, measured, readUnits, streamPiece, type ImageStream, type UnitRun } from '../../block/stream.js';
import { viewOf } from '../../util/view.js';
import { fullBitmap } from './bitmap.js';
import { footerOf, planImage, type NewImage, type OptionValues } from './create.js';
import { sectorSize } from './geometry.js';
import { DiskType, footerSize, unsupported, type Footer } from './header.js';
import { bitmapSize, layOut, tableSize } from './layout.js';

/** @throws BlockError where an option asks for what a stream cannot have */
export async function streamVpc(source: BlockBackend, options: OptionValues): Promise<ImageStream> {
  const image = planImage({ ...options, size: source.size });
  if (image.backingFile !== undefined) throw unsupported('A VHD stream cannot have a backing file');
  const footer = footerOf(image);
  return measured(image.type === DiskType.FIXED ? fixedStream(source, footer) : dynamicStream(source, footer, image, await collect(dataUnits(source, image.blockSize))));
}

function fixedStream(source: BlockBackend, footer: Footer): ImageStream {
  const size = footer.currentSize;
  return {
    length: size + footerSize,
    async *chunks() {
      for (let at = 0; at < size; at += streamPiece) {
        const bytes = new Uint8Array(Math.min(streamPiece, size - at));
        const inside = Math.max(0, Math.min(bytes.length, source.size - at));
        await source.read(at, bytes.subarray(0, inside));
        yield bytes;
      }
      yield footer.bytes;
    },
  };
}

function dynamicStream(source: BlockBackend, footer: Footer, { blockSize }: NewImage, runs: readonly UnitRun[]): ImageStream {
  const { head, header, blocksOffset } = layOut(footer, blockSize);
  const bitmap = fullBitmap(blockSize);
  const blocks = runs.reduce((sum, { count }) => sum + count, 0);
  return {
    length: blocksOffset + blocks * (bitmap.length + blockSize) + footerSize,
    async *chunks() {
      yield head;
      yield blockTable(header.maxEntries, runs, blocksOffset, blockSize);
      for await (const chunk of readUnits(source, blockSize, runs)) {
        for (let at = 0; at < chunk.length; at += blockSize) {
          yield bitmap;
          yield chunk.subarray(at, at + blockSize);
        }
      }
      yield footer.bytes;
    },
  };
}

/** The table of an image whose blocks lie one behind the other, in the order of the disk. */
export function blockTable(entries: number, runs: readonly UnitRun[], blocksOffset: number, blockSize: number): Uint8Array {
  const table = new Uint8Array(tableSize(entries)).fill(0xff);
  const view = viewOf(table);
  const step = (bitmapSize(blockSize) + blockSize) / sectorSize;
  let place = blocksOffset / sectorSize;
  for (const { first, count } of runs) {
    for (let block = first; block < first + count; block++, place += step) view.setUint32(block * 4, place);
  }
  return table;
}

async function collect(runs: AsyncIterable<UnitRun>): Promise<UnitRun[]> {
  const all: UnitRun[] = [];
  for await (const run of runs) all.push(run);
  return all;
}
