/** What no tool at hand makes of Parallels disks: stored bitmaps, bundles. */
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

export const guid = (digit: number): string => `{00000000-0000-0000-0000-${String(digit).padStart(12, '0')}}`;

/** Text of the DiskDescriptor.xml of a bundle; ends are in sectors, images have a number and the name of their file, the oldest first. */
export function describeBundle(
  storages: readonly { readonly end: number; readonly images: readonly (readonly [number, string])[] }[], shots = '', extra = '',
): string {
  let start = 0;
  const parts = storages.map(({ end, images }) => {
    const part = `<Storage><Start>${start}</Start><End>${end}</End><Blocksize>128</Blocksize>${images.map(([id, name]) =>
      `<Image>\n<GUID>${guid(id)}</GUID><Type>${name.endsWith('.raw') ? 'Plain' : 'Compressed'}</Type><File>${name}</File></Image>`).join('')}</Storage>`;
    start = end;
    return part;
  });
  return `<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version="1.0">
      <Disk_Parameters><Disk_size>${start}</Disk_size><Cylinders>16</Cylinders><Heads>16</Heads><Sectors>32</Sectors><Padding>0</Padding>${extra}</Disk_Parameters>
      <StorageData>${parts.join('\n')}</StorageData><Snapshots>${shots}</Snapshots></Parallels_disk_image>`;
}
