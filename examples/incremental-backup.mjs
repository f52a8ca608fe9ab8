// Backs up what has changed since the last time, and restores the disk as it was at any of these times.
//   node examples/incremental-backup.mjs backup DISK.qcow2 FOLDER
//   node examples/incremental-backup.mjs restore FOLDER DISK.vmdk [NUMBER]
// A dirty bitmap stored in the disk tells what was written; the allocated blocks tell what of that must be read: the rest are zeroes now.
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, readdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { addBitmap, clearBitmap } from 'vdisk';
import { AdapterType, DiskLib, DiskType, SECTOR_SIZE } from 'vdisk/vixdisklib';

const PIECE = 2048; // sectors
const BITMAP = 'incremental-backup';

/** What the bitmap marks, in sectors; all of the disk where there is no bitmap yet. */
function* changedBlocks(bitmap, capacity) {
  if (!bitmap) yield { offset: 0, length: capacity };
  for (let dirty = bitmap?.nextDirty(0); dirty; dirty = bitmap.nextDirty(dirty.offset + dirty.length)) {
    const offset = dirty.offset / SECTOR_SIZE;
    yield { offset, length: Math.min(Math.ceil(dirty.length / SECTOR_SIZE), capacity - offset) };
  }
}

async function backup(host, path, folder) {
  await mkdir(folder, { recursive: true });
  const number = (await readdir(folder)).filter((name) => name.endsWith('.json')).length;
  const disk = await host.open(path); // nobody else writes meanwhile
  const { node } = disk.backend;
  const bitmap = number > 0 ? node.bitmaps.get(BITMAP) : undefined;
  if (bitmap?.inconsistent) throw new Error('The bitmap was not closed properly: begin with a new folder');
  const data = await open(join(folder, `${number}.data`), 'w');
  const [changed, allocated] = [[...changedBlocks(bitmap, disk.capacity)], []];
  for (const { offset: start, length } of changed) {
    for await (const block of disk.allocatedBlocks({ start, length })) {
      for (let done = 0; done < block.length; done += PIECE) await data.write(await disk.read(block.offset + done, Math.min(PIECE, block.length - done)));
      allocated.push(block);
    }
  }
  await data.sync();
  await data.close();
  await writeFile(join(folder, `${number}.json`), JSON.stringify({ capacity: disk.capacity, changed, allocated }));
  // from here on the next backup begins
  if (node.bitmaps.has(BITMAP)) clearBitmap(node, BITMAP);
  else await addBitmap(node, BITMAP, 65536);
  console.log(`backup ${number}: ${allocated.reduce((sum, { length }) => sum + length, 0)} sectors`);
}

async function apply(disk, folder, number) {
  const { changed, allocated } = JSON.parse(await readFile(join(folder, `${number}.json`), 'utf8'));
  const zeroes = number === 0 ? [] : changed;
  for (const { offset, length } of zeroes) await disk.backend.writeZeroes(offset * SECTOR_SIZE, length * SECTOR_SIZE);
  const data = await open(join(folder, `${number}.data`));
  const piece = Buffer.alloc(PIECE * SECTOR_SIZE);
  for (const { offset, length } of allocated) {
    for (let done = 0; done < length; done += PIECE) {
      const { bytesRead } = await data.read(piece, 0, Math.min(PIECE, length - done) * SECTOR_SIZE);
      await disk.write(offset + done, piece.subarray(0, bytesRead));
    }
  }
  await data.close();
}

async function restore(host, folder, path, last) {
  const { capacity } = JSON.parse(await readFile(join(folder, '0.json'), 'utf8'));
  await host.create(path, { diskType: DiskType.MONOLITHIC_SPARSE, adapterType: AdapterType.SCSI_LSILOGIC, capacity });
  const disk = await host.open(path);
  let number = 0;
  for (; number <= last && existsSync(join(folder, `${number}.json`)); number++) await apply(disk, folder, number);
  console.log(`restored from ${number} backups`);
}

const [verb, from, to, last = Infinity] = process.argv.slice(2);
if (!['backup', 'restore'].includes(verb) || !to) throw new Error('incremental-backup.mjs backup DISK FOLDER | restore FOLDER DISK.vmdk [NUMBER]');
const lib = await DiskLib.init({ warn: console.warn });
try {
  await (verb === 'backup' ? backup : restore)(await lib.connect(), resolve(from), resolve(to), Number(last));
} finally {
  await lib.close(); // with all its disks
}
