/** A qcow2 image as a stream: all metadata first, then the data clusters in the order of the disk. */
import type { BlockBackend } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import { dataUnits, measured, readUnits, type ImageStream } from '../../block/stream.js';
import { viewOf } from '../../util/view.js';
import { parseCreateOptions, type NewImage, type OptionValues } from './create-options.js';
import { newHeader } from './create.js';
import { l1EntriesFor, maxL1Bytes, maxRefcountTableBytes, serialiseHeader } from './header.js';
import { COPIED_HI, hiOf, loOf, refcountsPerBlock, setEntry, writeRefcount, writeU64 } from './tables.js';

interface Layout {
  readonly refcountTableClusters: number;
  readonly refcountBlocks: number;
  readonly l1Entries: number;
  readonly l1Offset: number;
  readonly l2Offset: number;
  readonly dataOffset: number;
  readonly clusters: number;
}

/** @throws BlockError where an option asks for what a stream cannot have */
export async function streamQcow2(source: BlockBackend, options: OptionValues): Promise<ImageStream> {
  const image = parseCreateOptions(options);
  refuse(image.backingFile !== undefined, 'a backing file');
  refuse(image.dataFile !== undefined, 'an external data file');
  refuse(image.extendedL2, 'extended L2 entries');
  refuse(image.preallocation !== 'off', 'preallocation');
  const clusterSize = 2 ** image.clusterBits;
  const layout = layOut(image, source.size, await countClusters(source, clusterSize));
  return measured({
    length: layout.clusters * clusterSize,
    async *chunks() {
      yield* metadata(image, source, layout);
      yield* readUnits(source, clusterSize);
    },
  });
}

function refuse(asked: boolean, what: string): void {
  if (asked) throw new BlockError('NOT_SUPPORTED', `A qcow2 stream cannot have ${what}`);
}

async function countClusters(source: BlockBackend, clusterSize: number): Promise<{ data: number; l2: number }> {
  const perTable = clusterSize / 8;
  let data = 0;
  let l2 = 0;
  let lastTable = -1;
  for await (const { first, count } of dataUnits(source, clusterSize)) {
    const from = Math.floor(first / perTable);
    const to = Math.floor((first + count - 1) / perTable);
    data += count;
    l2 += to - Math.max(from, lastTable + 1) + 1;
    lastTable = to;
  }
  return { data, l2 };
}

function layOut(image: NewImage, diskSize: number, { data, l2 }: { data: number; l2: number }): Layout {
  const { clusterBits, refcountOrder } = image;
  const clusterSize = 2 ** clusterBits;
  const l1Entries = l1EntriesFor(diskSize, clusterBits, false);
  if (l1Entries * 8 > maxL1Bytes) throw new BlockError('INVALID_ARGUMENT', "The image size is too large for file format 'qcow2' (try using a larger cluster size)");
  const l1Clusters = Math.ceil((l1Entries * 8) / clusterSize);
  const perBlock = refcountsPerBlock(clusterBits, refcountOrder);
  let refcountBlocks = 1;
  let refcountTableClusters = 1;
  let clusters: number;
  for (;;) {
    clusters = 1 + refcountTableClusters + refcountBlocks + l1Clusters + l2 + data;
    const blocks = Math.ceil(clusters / perBlock);
    const table = Math.ceil((blocks * 8) / clusterSize);
    if (blocks <= refcountBlocks && table <= refcountTableClusters) break;
    refcountBlocks = Math.max(blocks, refcountBlocks);
    refcountTableClusters = Math.max(table, refcountTableClusters);
  }
  if (refcountTableClusters * clusterSize > maxRefcountTableBytes) throw new BlockError('INVALID_ARGUMENT', 'Refcount table too large (try using a larger cluster size)');
  const l1Offset = (1 + refcountTableClusters + refcountBlocks) * clusterSize;
  const l2Offset = l1Offset + l1Clusters * clusterSize;
  return { refcountTableClusters, refcountBlocks, l1Entries, l1Offset, l2Offset, dataOffset: l2Offset + l2 * clusterSize, clusters };
}

async function* metadata(image: NewImage, source: BlockBackend, layout: Layout): AsyncGenerator<Uint8Array, void, undefined> {
  const { clusterBits, refcountOrder } = image;
  const clusterSize = 2 ** clusterBits;
  const { refcountTableClusters, refcountBlocks, clusters, l1Entries, l1Offset } = layout;
  const head = new Uint8Array((1 + refcountTableClusters) * clusterSize);
  head.set(serialiseHeader({ ...newHeader(image), size: source.size, l1Size: l1Entries, l1Offset, refcountTableClusters }));
  const blocksOffset = head.length;
  for (let block = 0; block < refcountBlocks; block++) writeU64(viewOf(head), clusterSize + block * 8, blocksOffset + block * clusterSize);
  yield head;
  const perBlock = refcountsPerBlock(clusterBits, refcountOrder);
  for (let block = 0; block < refcountBlocks; block++) {
    const bytes = new Uint8Array(clusterSize);
    const used = Math.min(perBlock, clusters - block * perBlock);
    for (let index = 0; index < used; index++) writeRefcount(bytes, index, refcountOrder, 1);
    yield bytes;
  }
  yield await l1Table(source, clusterSize, layout);
  yield* l2Tables(source, clusterSize, layout.dataOffset);
}

async function l1Table(source: BlockBackend, clusterSize: number, { l1Offset, l2Offset }: Layout): Promise<Uint8Array> {
  const perTable = clusterSize / 8;
  const bytes = new Uint8Array(l2Offset - l1Offset);
  const view = viewOf(bytes);
  let next = l2Offset;
  let last = -1;
  for await (const { first, count } of dataUnits(source, clusterSize)) {
    const to = Math.floor((first + count - 1) / perTable);
    for (let table = Math.max(Math.floor(first / perTable), last + 1); table <= to; table++, next += clusterSize) setEntry(view, table, COPIED_HI + hiOf(next), loOf(next));
    last = to;
  }
  return bytes;
}

async function* l2Tables(source: BlockBackend, clusterSize: number, dataOffset: number): AsyncGenerator<Uint8Array, void, undefined> {
  const perTable = clusterSize / 8;
  let bytes = new Uint8Array(clusterSize);
  let table = -1;
  let place = dataOffset;
  for await (const { first, count } of dataUnits(source, clusterSize)) {
    for (let cluster = first; cluster < first + count; cluster++, place += clusterSize) {
      const mine = Math.floor(cluster / perTable);
      if (mine !== table) {
        if (table >= 0) yield bytes;
        bytes = new Uint8Array(clusterSize);
        table = mine;
      }
      setEntry(viewOf(bytes), cluster % perTable, COPIED_HI + hiOf(place), loOf(place));
    }
  }
  if (table >= 0) yield bytes;
}
