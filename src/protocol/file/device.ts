/** What a block device says of itself. */
import { readFileSync } from 'node:fs';
import { Ioctl, type Native } from '../../platform/native.js';

export interface DeviceGeometry {
  /** Bytes. */
  readonly size: number;
  /** Bytes of a logical block. */
  readonly blockSize: number;
}

/** Asks the device, else the kernel's tables. Throws what reading them throws. */
export function deviceGeometry(fd: number, device: number, native: Native | undefined): DeviceGeometry {
  const size = new BigUint64Array(1);
  const blockSize = new Int32Array(1);
  if (native && native.ioctl(fd, Ioctl.BLKGETSIZE64, size) === 0 && native.ioctl(fd, Ioctl.BLKSSZGET, blockSize) === 0) {
    return { size: Number(size[0]), blockSize: blockSize[0]! };
  }
  const folder = `/sys/dev/block/${majorOf(device)}:${minorOf(device)}`;
  const block = readNumber(`${folder}/queue/logical_block_size`) ?? 512;
  return { size: Number(readFileSync(`${folder}/size`, 'latin1')) * 512, blockSize: block };
}

/** Partitions have no queue of their own. */
function readNumber(path: string): number | undefined {
  try {
    return Number(readFileSync(path, 'latin1'));
  } catch {
    return undefined;
  }
}

function majorOf(device: number): number {
  return Math.floor(device / 256) % 4096;
}

function minorOf(device: number): number {
  return (device % 256) + Math.floor(device / 2 ** 20) * 256;
}
