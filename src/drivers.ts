/** The only file that names every driver. */
import type { BlockDriver } from './block/driver.js';
import { DriverRegistry } from './block/registry.js';
import { blkdebug } from './filter/blkdebug/index.js';
import { blkverify } from './filter/blkverify/index.js';
import { compress } from './filter/compress/index.js';
import { copyOnRead } from './filter/copy-on-read/index.js';
import { quorum } from './filter/quorum/index.js';
import { bochs } from './format/bochs/index.js';
import { cloop } from './format/cloop/index.js';
import { dmg } from './format/dmg/index.js';
import { luks } from './format/luks/index.js';
import { parallels } from './format/parallels/index.js';
import { qcow } from './format/qcow/index.js';
import { qcow2 } from './format/qcow2/index.js';
import { qed } from './format/qed/index.js';
import { raw } from './format/raw/index.js';
import { vdi } from './format/vdi/index.js';
import { vhdx } from './format/vhdx/index.js';
import { vmdk } from './format/vmdk/index.js';
import { vpc } from './format/vpc/index.js';
import { file, hostCdrom, hostDevice } from './protocol/file/index.js';
import { memory } from './protocol/memory/index.js';
import { nbd } from './protocol/nbd/index.js';
import { nullAio, nullCo } from './protocol/null/index.js';
import { vvfat } from './protocol/vvfat/index.js';

export const allDrivers: readonly BlockDriver[] = [
  blkdebug, blkverify, bochs, cloop, compress, copyOnRead, dmg, file, hostCdrom, hostDevice, luks, memory, nbd, nullAio, nullCo, parallels, qcow, qcow2, qed, quorum, raw, vdi, vhdx, vmdk, vpc, vvfat,
];

/** A registry with every driver vdisk has, each as `view` shows it. */
export function createRegistry(view: (driver: BlockDriver) => BlockDriver = (driver) => driver): DriverRegistry {
  return new DriverRegistry(allDrivers.map(view));
}
