/** Parallels images with stored bitmaps, which no tool at hand makes. */
import { createHash } from 'node:crypto';

const clusterSize = 65_536;
export const bitmapName = 'e4f2eed0-37fe-4539-b50b-85d2e7fd235f';

/**
 * An empty image of 64-KiB clusters with a format extension: one bitmap of 64-KiB granules, every third of them dirty, or what `edit` makes
 * of it.
 */
export function withBitmap(image: Buffer, disk: number, edit: (feature: Buffer, cluster: Buffer) => void = () => undefined): Buffer {
  const start = image.readUInt32LE(48) * 512;
  const grown = Buffer.concat([image.subarray(0, start), Buffer.alloc(2 * clusterSize)]);
  grown.writeBigUInt64LE(BigInt(start / 512), 56);
  const bits = Math.ceil(disk / clusterSize);
  for (let bit = 0; bit < bits; bit += 3) grown[start + clusterSize + (bit >>> 3)]! |= 1 << (bit & 7);
  const cluster = grown.subarray(start, start + clusterSize);
  const feature = cluster.subarray(24);
  feature.writeBigUInt64LE(0x2038_5fae_252c_b34an, 0);
  feature.writeUInt32LE(40, 16);
  feature.writeBigUInt64LE(BigInt(disk / 512), 24);
  Buffer.from(bitmapName.replaceAll('-', ''), 'hex').copy(feature, 32);
  feature.writeUInt32LE(128, 48);
  feature.writeUInt32LE(1, 52);
  feature.writeBigUInt64LE(BigInt((start + clusterSize) / 512), 56);
  cluster.writeBigUInt64LE(0xab23_4cef_23dc_ea87n, 0);
  edit(feature, cluster);
  createHash('md5').update(cluster.subarray(24)).digest().copy(cluster, 8);
  return grown;
}
