/** The partitions of a disk, as a list for people and programs. */
import { readPartitionTable, PartitionTableError, type PartitionTable } from '../../../wire/partition-table.js';
import { formatNbdUri } from '../../../wire/nbd/address.js';
import { openImage, withImage } from '../open.js';
import { CliError } from '../output.js';
import { socketOf, type OpenDisk } from './state.js';

/** The table of a disk: through its server where it is in use. @throws CliError where a table is damaged beyond use */
export async function partitionTable(disk: string, inUse: OpenDisk | undefined): Promise<PartitionTable | undefined> {
  const image = inUse === undefined ? await openImage(disk)
    : await openImage(formatNbdUri({ type: 'unix', path: socketOf(disk) }, ''), { format: 'raw' });
  return withImage(image, async (backend) => {
    try {
      return await readPartitionTable(async (offset, length) => {
        const bytes = new Uint8Array(length);
        await backend.read(offset, bytes);
        return bytes;
      }, backend.size);
    } catch (error) {
      throw error instanceof PartitionTableError ? new CliError(error.message) : error;
    }
  });
}

/** The vendor's columns; starts and sizes in sectors of 512 bytes. */
export function tableText({ scheme, partitions }: PartitionTable): string {
  const rows = partitions.map(({ number, start, size, type, system, name }) => {
    const described = system === 'Unknown' && scheme === 'gpt' ? type : system;
    return row(String(number), String(start / 512), String(size / 512), scheme === 'gpt' ? 'GPT' : 'BIOS', scheme === 'gpt' ? '-' : type, `${described}${name === undefined ? '' : ` "${printable(name)}"`}`);
  });
  return `${row('Nr', 'Start', 'Size', 'Type', 'Id', 'System')}-- ---------- ---------- ---- -- ------------------------\n${rows.join('')}`;
}

function row(number: string, start: string, size: string, type: string, id: string, system: string): string {
  return `${number.padStart(2)} ${start.padStart(10)} ${size.padStart(10)} ${type.padEnd(4)} ${id.padStart(2)} ${system}\n`;
}

/** Names come from the disk: nothing in them may speak to a terminal. */
function printable(name: string): string { return name.replace(/[\p{C}"]/gu, '?'); }
