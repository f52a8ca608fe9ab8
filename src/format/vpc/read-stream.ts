/** A dynamic or differencing VHD that comes as a stream: its blocks in the order in which they come. */
import { viewOf } from '../../util/view.js';
import { sectorSize } from './geometry.js';
import {
  corrupt, dynamicHeaderSize, footerSize, isFooter, parseDynamicHeader, parseFooter, unsupported, type DynamicHeader, type Footer,
} from './header.js';
import { absent, bitmapSize, blockCount, tableSize } from './layout.js';
import { requireTable } from './open.js';
import { diskSize } from './options.js';

export interface StreamedBlock {
  /** Where it belongs on the disk. */
  readonly offset: number;
  /** As far as the disk goes. */
  readonly data: Uint8Array;
  /** Sectors that are there, the most significant bit of a byte first; the others read as zero, or as the parent has them. */
  readonly bitmap: Uint8Array;
}

export interface StreamedDisk {
  readonly footer: Footer;
  readonly header: DynamicHeader;
  /** Virtual size in bytes. */
  readonly size: number;
  blocks(): AsyncGenerator<StreamedBlock, void, undefined>;
}

/**
 * Takes in the head of a stream; the blocks follow. Memory is that of the table and one block.
 * @throws BlockError where the stream is no VHD, ends too early, or has its parts in an order that cannot be read from front to back
 */
export async function readVpcStream(chunks: AsyncIterable<Uint8Array>): Promise<StreamedDisk> {
  const bytes = new ByteStream(chunks);
  const head = await bytes.take(footerSize);
  if (!isFooter(head)) throw corrupt('invalid VPC image');
  const footer = parseFooter(head);
  if (footer.dataOffset === undefined) throw unsupported('A fixed VHD has no head to tell it by');
  await bytes.skipTo(footer.dataOffset);
  const header = parseDynamicHeader(await bytes.take(dynamicHeaderSize));
  const size = diskSize(footer, undefined);
  requireTable(header, size);
  await bytes.skipTo(header.tableOffset);
  const table = viewOf(await bytes.take(tableSize(header.maxEntries)));
  const order: number[] = [];
  for (let block = 0; block < blockCount(size, header.blockSize); block++) if (table.getUint32(block * 4) !== absent) order.push(block);
  order.sort((a, b) => table.getUint32(a * 4) - table.getUint32(b * 4));
  return { footer, header, size, blocks: () => blocks(bytes, table, order, header.blockSize, size) };
}

async function* blocks(bytes: ByteStream, table: DataView, order: readonly number[], blockSize: number, size: number): AsyncGenerator<StreamedBlock, void, undefined> {
  for (const block of order) {
    await bytes.skipTo(table.getUint32(block * 4) * sectorSize);
    const bitmap = await bytes.take(bitmapSize(blockSize));
    const data = await bytes.take(blockSize);
    const offset = block * blockSize;
    yield { offset, data: data.subarray(0, Math.min(blockSize, size - offset)), bitmap };
  }
}

/** Counts the bytes of a stream, and hands them out in pieces of any length. */
class ByteStream {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest = new Uint8Array(0);
  #position = 0;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async take(length: number): Promise<Uint8Array> {
    const target = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const piece = await this.#next(length - done);
      target.set(piece, done);
      done += piece.length;
    }
    return target;
  }

  async skipTo(position: number): Promise<void> {
    if (position < this.#position) throw unsupported('The parts of this VHD do not lie in an order that a stream could be read in');
    while (this.#position < position) await this.#next(position - this.#position);
  }

  /** At least one byte, at most `longest`. */
  async #next(longest: number): Promise<Uint8Array> {
    while (this.#rest.length === 0) {
      const { value, done } = await this.#chunks.next();
      if (done === true) throw corrupt('The stream ends within the image');
      this.#rest = value as Uint8Array<ArrayBuffer>;
    }
    const piece = this.#rest.subarray(0, longest);
    this.#rest = this.#rest.subarray(piece.length);
    this.#position += piece.length;
    return piece;
  }
}
