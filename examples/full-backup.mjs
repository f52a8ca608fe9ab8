// Backs a whole disk up to a folder, and restores it from there as a new VMDK. Only what the disk holds is read and kept.
//   node examples/full-backup.mjs backup DISK FOLDER
//   node examples/full-backup.mjs restore FOLDER DISK.vmdk
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { AdapterType, DiskLib, DiskType, OpenFlags, SECTOR_SIZE } from 'vdisk/vixdisklib';

const PIECE = 2048; // sectors read at a time

async function backup(host, path, folder) {
  const disk = await host.open(path, { flags: OpenFlags.READ_ONLY });
  const info = await disk.info();
  await mkdir(folder, { recursive: true });
  const data = await open(join(folder, 'data'), 'wx');
  const blocks = [];
  let kept = 0;
  for await (const block of disk.allocatedBlocks()) {
    for (let done = 0; done < block.length; done += PIECE) {
      await data.write(await disk.read(block.offset + done, Math.min(PIECE, block.length - done)));
    }
    blocks.push(block);
    kept += block.length;
  }
  await data.sync();
  await data.close();
  // the description comes last: without it there is no backup
  const { capacity, adapterType } = info;
  const metadata = Object.fromEntries(await disk.metadata.entries());
  await writeFile(join(folder, 'backup.json'), JSON.stringify({ capacity, adapterType, metadata, blocks }), { flag: 'wx' });
  console.log(`${kept} of ${capacity} sectors kept`);
}

async function restore(host, folder, path) {
  const { capacity, adapterType, metadata, blocks } = JSON.parse(await readFile(join(folder, 'backup.json'), 'utf8'));
  const known = adapterType === AdapterType.UNKNOWN ? AdapterType.SCSI_LSILOGIC : adapterType;
  await host.create(path, { diskType: DiskType.MONOLITHIC_SPARSE, adapterType: known, capacity });
  const disk = await host.open(path);
  const data = await open(join(folder, 'data'));
  const piece = Buffer.alloc(PIECE * SECTOR_SIZE);
  for (const { offset, length } of blocks) {
    for (let done = 0; done < length; done += PIECE) {
      const { bytesRead } = await data.read(piece, 0, Math.min(PIECE, length - done) * SECTOR_SIZE);
      await disk.write(offset + done, piece.subarray(0, bytesRead));
    }
  }
  await data.close();
  if (metadata.uuid) await disk.metadata.set('uuid', metadata.uuid);
  await disk.flush();
  console.log(`${capacity} sectors restored`);
}

const [verb, from, to] = process.argv.slice(2);
if (!['backup', 'restore'].includes(verb) || !to) throw new Error('full-backup.mjs backup DISK FOLDER | restore FOLDER DISK.vmdk');
const lib = await DiskLib.init({ warn: console.warn });
try {
  await (verb === 'backup' ? backup : restore)(await lib.connect(), resolve(from), resolve(to));
} finally {
  await lib.close(); // with all its disks
}
