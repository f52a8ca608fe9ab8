/** The command line of vmware-vdiskmanager. */
import { AdapterType, DiskType, SECTOR_SIZE } from '../../vixdisklib/constants.js';
import { Getopt, GetoptError } from '../getopt.js';
import { misuse } from '../vix.js';

export interface Common { readonly disk: string; readonly quiet: boolean; readonly json: boolean }

export type Request =
  | { readonly operation: 'help' }
  | Common & { readonly operation: 'create'; readonly capacity: number; readonly adapterType: AdapterType; readonly diskType: DiskType }
  | Common & { readonly operation: 'convert'; readonly source: string; readonly diskType: DiskType | undefined; readonly host: string | undefined; readonly port: number | undefined }
  | Common & { readonly operation: 'expand'; readonly capacity: number }
  | Common & { readonly operation: 'rename'; readonly source: string }
  | Common & { readonly operation: 'defragment' | 'shrink' | 'prepare' | 'chain' | 'repair' | 'deletable' | 'delete' };

const operations = {
  c: 'create', r: 'convert', x: 'expand', n: 'rename', d: 'defragment', k: 'shrink', p: 'prepare', e: 'chain', R: 'repair', D: 'deletable', U: 'delete',
} as const;
type Letter = keyof typeof operations;

const types: readonly DiskType[] = [
  DiskType.MONOLITHIC_SPARSE, DiskType.SPLIT_SPARSE, DiskType.MONOLITHIC_FLAT, DiskType.SPLIT_FLAT, DiskType.VMFS_FLAT, DiskType.STREAM_OPTIMIZED, DiskType.VMFS_THIN,
];
const adapters: Readonly<Record<string, AdapterType>> = { ide: AdapterType.IDE, buslogic: AdapterType.SCSI_BUSLOGIC, lsilogic: AdapterType.SCSI_LSILOGIC };
/** Which options go with which operation only. */
const belongs: Readonly<Record<string, readonly Letter[]>> = { s: ['c'], a: ['c'], t: ['c', 'r'], h: ['r'], u: ['r'], f: ['r'], P: ['r'] };

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;

/** @throws CliError with exit code 2 */
export function parseOptions(argv: readonly string[]): Request {
  const getopt = new Getopt(argv, ['c', 'r=', 'x=', 'n=', 'd', 'k', 'p', 'e', 'R', 'D', 'U', 'q', 's=', 'a=', 't=', 'h=', 'u=', 'f=', 'P=', 'json', 'help']);
  const seen = new Map<string, string>();
  let chosen: { readonly letter: Letter; readonly value: string } | undefined;
  try {
    for (const { name, value = '' } of getopt) {
      if (!isOperation(name)) seen.set(name, value);
      else if (chosen === undefined) chosen = { letter: name, value };
      else throw misuse(`-${chosen.letter} and -${name} exclude each other`);
    }
  } catch (error) {
    if (error instanceof GetoptError) throw misuse(error.message);
    throw error;
  }
  if (seen.has('help') || (chosen === undefined && argv.length === 0)) return { operation: 'help' };
  if (chosen === undefined) throw misuse('What is to be done? One of -c -r -x -n -d -k -p -e -R -D -U is needed');
  const { letter, value } = chosen;
  for (const name of seen.keys()) if (belongs[name]?.includes(letter) === false) throw misuse(`-${name} does not go with -${letter}`);
  const [disk, extra] = getopt.operands;
  if (disk === undefined || extra !== undefined) throw misuse(letter === 'p' ? 'One directory is needed, where the disk is mounted' : letter === 'n' ? '-n takes the old name and the new one' : 'One disk is needed');
  const common = { disk, quiet: seen.has('q'), json: seen.has('json') };
  switch (letter) {
    case 'c': return { ...common, operation: 'create', ...creation(seen) };
    case 'r': return { ...common, operation: 'convert', source: value, ...destination(seen) };
    case 'x': return { ...common, operation: 'expand', capacity: capacityOf('-x', value, AdapterType.SCSI_LSILOGIC) };
    case 'n': return { ...common, operation: 'rename', source: value };
    default: return { ...common, operation: operations[letter] };
  }
}

function isOperation(name: string): name is Letter { return Object.hasOwn(operations, name); }

function creation(seen: ReadonlyMap<string, string>): { capacity: number; adapterType: AdapterType; diskType: DiskType } {
  const size = seen.get('s');
  if (size === undefined) throw misuse('-c needs a size: -s 40GB');
  const adapter = seen.get('a') ?? 'lsilogic';
  const adapterType = Object.hasOwn(adapters, adapter) ? adapters[adapter]! : undefined;
  if (adapterType === undefined) throw misuse(`'${adapter}' is no adapter: ide, buslogic or lsilogic`);
  const diskType = typeOf(seen.get('t') ?? '0');
  if (diskType === DiskType.STREAM_OPTIMIZED) throw misuse('A compressed stream is made with -r, from a disk that has content');
  return { capacity: capacityOf('-s', size, adapterType), adapterType, diskType };
}

function destination(seen: ReadonlyMap<string, string>): { diskType: DiskType | undefined; host: string | undefined; port: number | undefined } {
  const host = seen.get('h');
  const type = seen.get('t');
  const port = seen.get('P');
  if (host === undefined && type === undefined) throw misuse('-r needs the type of the new disk: -t 0');
  if (host === undefined && ['u', 'f', 'P'].some((name) => seen.has(name))) throw misuse('-u, -f and -P go with -h');
  if (port !== undefined && (!/^\d{1,5}$/.test(port) || Number(port) > 65535)) throw misuse(`'${port}' is no port`);
  return { diskType: type === undefined ? undefined : typeOf(type), host, port: port === undefined ? undefined : Number(port) };
}

function typeOf(text: string): DiskType {
  const type = /^\d$/.test(text) ? types[Number(text)] : undefined;
  if (type === undefined) throw misuse(`'${text}' is no type of disk: 0 to 6, see --help`);
  return type;
}

const units: Readonly<Record<string, number>> = { '': SECTOR_SIZE, kb: 1024, mb: MiB, gb: GiB, tb: 1024 * GiB };

/** Sectors. @throws CliError where it is no size, or out of the range of the adapter */
export function capacityOf(option: string, text: string, adapter: AdapterType): number {
  const match = /^(\d+)([kmgt]b)?$/i.exec(text);
  const bytes = match ? Number(match[1]) * units[(match[2] ?? '').toLowerCase()]! : NaN;
  if (!Number.isFinite(bytes) || bytes % SECTOR_SIZE !== 0) throw misuse(`${option} takes a number of sectors, or of KB, MB, GB or TB: not '${text}'`);
  const most = adapter === AdapterType.SCSI_BUSLOGIC ? 2040 : 8192;
  if (bytes < MiB || bytes > most * GiB) throw misuse(`${option} ${text} is out of range: 1MB to ${most}GB`);
  return bytes / SECTOR_SIZE;
}
