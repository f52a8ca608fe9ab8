/** A qcow2 image of zstd frames as streaming compressors make them: without the size of their content. */

/** A frame that holds `length` times the byte `value`: a window of 128 KiB or more and one block of repeated bytes. */
function frame(length: number, value: number): Buffer {
  const blockHeader = (length << 3) | (1 << 1) | 1;
  return Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, blockHeader & 0xff, (blockHeader >> 8) & 0xff, blockHeader >> 16, value]);
}

/** Every cluster is a frame of its own, one for each 512 bytes of the file: none of them ends where the next begins. */
export function qcow2OfFrames(clusterBits: number, size: number): Buffer {
  const clusterSize = 2 ** clusterBits;
  const roundUp = (bytes: number): number => Math.ceil(bytes / clusterSize) * clusterSize;
  const count = size / clusterSize;
  const tables = Math.ceil(count / (clusterSize / 8));
  const l1 = clusterSize;
  const l2 = l1 + roundUp(tables * 8);
  const data = l2 + tables * clusterSize;
  const refcountTable = data + roundUp(count * 512);
  const perBlock = clusterSize / 2;
  const most = refcountTable / clusterSize + 64;
  const blocks = Math.ceil(most / perBlock) + 1;
  const refcounts = refcountTable + roundUp(blocks * 8);
  const image = Buffer.alloc(refcounts + blocks * clusterSize);

  image.write('QFI\xfb', 0, 'latin1');
  image.writeUInt32BE(3, 4);
  image.writeUInt32BE(clusterBits, 20);
  image.writeBigUInt64BE(BigInt(size), 24);
  image.writeUInt32BE(tables, 36);
  image.writeBigUInt64BE(BigInt(l1), 40);
  image.writeBigUInt64BE(BigInt(refcountTable), 48);
  image.writeUInt32BE(roundUp(blocks * 8) / clusterSize, 56);
  image.writeBigUInt64BE(8n, 72); // a compression type is given
  image.writeUInt32BE(4, 96);
  image.writeUInt32BE(112, 100);
  image[104] = 1; // zstd

  for (let index = 0; index < tables; index++) image.writeBigUInt64BE(BigInt(l2 + index * clusterSize) | (1n << 63n), l1 + index * 8);
  for (let index = 0; index < count; index++) {
    const place = data + index * 512;
    image.writeBigUInt64BE(BigInt(place) | (1n << 62n), l2 + index * 8);
    frame(clusterSize, 1 + (index % 250)).copy(image, place);
  }
  for (let index = 0; index < blocks; index++) image.writeBigUInt64BE(BigInt(refcounts + index * clusterSize), refcountTable + index * 8);
  for (let cluster = 0; cluster < image.length / clusterSize; cluster++) {
    const at = cluster * clusterSize - data;
    const framesInIt = at >= 0 && at < count * 512 ? Math.min(clusterSize, count * 512 - at) / 512 : 1;
    const isUsed = cluster * clusterSize < data + count * 512 || cluster * clusterSize >= refcountTable;
    image.writeUInt16BE(isUsed ? framesInIt : 0, refcounts + cluster * 2);
  }
  return image;
}
