/** The command line of vixdisklib-sample: long names behind a single dash, as in VDDK. */
import { AdapterType, CredType, MIN_CHUNK_SIZE, OpenFlags, SpecType } from '../../vixdisklib/constants.js';
import type { ConnectParams } from '../../vixdisklib/connect-params.js';
import { misuse } from '../vix.js';

/** Commands and how many words they take. */
const commands = {
  create: 0, redo: 1, info: 0, dump: 0, fill: 0, wmeta: 2, rmeta: 1, meta: 0, clone: 1, readbench: 1, writebench: 1, readasyncbench: 1, writeasyncbench: 1,
  getallocatedblocks: 0, check: 1, multithread: 1,
} as const;
export type Command = keyof typeof commands;

const settings = [
  'adapter', 'cap', 'start', 'count', 'val', 'chunksize', 'compress', 'initex', 'libdir', 'host', 'port', 'nfchostport', 'mode', 'thumb', 'vm', 'ssmoref', 'user',
  'password', 'cookie', 'fcdid', 'fcdds', 'fcdssid',
];

/** These never write. */
const reading = new Set<Command>(['info', 'dump', 'rmeta', 'meta', 'getallocatedblocks', 'readbench', 'readasyncbench', 'multithread']);
const compressions: Readonly<Record<string, number>> = { zlib: OpenFlags.COMPRESSION_ZLIB, fastlz: OpenFlags.COMPRESSION_FASTLZ, skipz: OpenFlags.COMPRESSION_SKIPZ };

export interface SampleOptions {
  readonly command: Command;
  /** Words of the command. */
  readonly words: readonly string[];
  readonly disk: string;
  readonly params: ConnectParams | null;
  readonly readOnly: boolean;
  /** Of the disk's open. */
  readonly flags: number;
  readonly modes: string | null;
  readonly snapshot: string | null;
  readonly configFile: string | null;
  readonly libDir: string | null;
  readonly adapterType: AdapterType;
  /** Sectors. */
  readonly capacity: number;
  readonly start: number;
  /** Sectors; undefined where the user did not say. */
  readonly count: number | undefined;
  readonly value: number;
  readonly chunkSize: number;
}

/** undefined where only help is wanted. @throws CliError with exit code 2 */
export function parseOptions(argv: readonly string[]): SampleOptions | undefined {
  const given = new Map<string, string>();
  const operands: string[] = [];
  let command: Command | undefined;
  let words: readonly string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at]!;
    const name = word.replace(/^--?/, '').toLowerCase();
    const take = (count: number): readonly string[] => {
      const taken = argv.slice(at + 1, at + 1 + count);
      if (taken.length < count) throw misuse(`${word} takes ${count === 1 ? 'a word' : `${count} words`}`);
      at += count;
      return taken;
    };
    if (!word.startsWith('-') || word === '-') operands.push(word);
    else if (name === 'help' || name === 'h') return undefined;
    else if (name === 'single') given.set(name, '');
    else if (settings.includes(name)) given.set(name, take(1)[0]!);
    else if (!Object.hasOwn(commands, name)) throw misuse(`'${word}' is no option`);
    else if (command !== undefined) throw misuse(`-${command} and ${word} exclude each other`);
    else words = take(commands[command = name as Command]);
  }
  if (argv.length === 0) return undefined;
  if (command === undefined) throw misuse('A command is needed');
  const [disk, extra] = operands;
  if (disk === undefined || extra !== undefined) throw misuse('One disk is needed');
  return describe(command, words, disk, given);
}

function describe(command: Command, words: readonly string[], disk: string, given: ReadonlyMap<string, string>): SampleOptions {
  const number = (name: string, least: number, most = Number.MAX_SAFE_INTEGER): number | undefined => {
    const text = given.get(name);
    return text === undefined ? undefined : wholeNumber(`-${name}`, text, least, most);
  };
  const adapter = given.get('adapter') ?? 'scsi';
  if (adapter !== 'ide' && adapter !== 'scsi') throw misuse(`'${adapter}' is no adapter: ide or scsi`);
  const compression = given.get('compress');
  if (compression !== undefined && !Object.hasOwn(compressions, compression)) throw misuse(`'${compression}' is no compression: zlib, fastlz or skipz`);
  const readOnly = reading.has(command);
  return {
    command, words, disk, readOnly,
    params: connectParams(given, (name) => number(name, 0, 65535)),
    flags: (readOnly ? OpenFlags.READ_ONLY : 0) | (given.has('single') ? OpenFlags.SINGLE_LINK : 0) | (compression === undefined ? 0 : compressions[compression]!),
    modes: given.get('mode') ?? null, snapshot: given.get('ssmoref') ?? null, configFile: given.get('initex') ?? null, libDir: given.get('libdir') ?? null,
    adapterType: adapter === 'ide' ? AdapterType.IDE : AdapterType.SCSI_BUSLOGIC,
    capacity: (number('cap', 1, 2 ** 32) ?? 100) * 2048, start: number('start', 0) ?? 0, count: number('count', 1),
    value: number('val', 0, 255) ?? 255, chunkSize: number('chunksize', 1) ?? MIN_CHUNK_SIZE,
  };
}

function connectParams(given: ReadonlyMap<string, string>, port: (name: string) => number | undefined): ConnectParams | null {
  const text = (name: string): string | undefined => given.get(name);
  const userName = text('user') ?? '';
  const [password, cookie, fcd] = [text('password'), text('cookie'), text('fcdid')];
  const params: ConnectParams = {
    serverName: text('host'), vmxSpec: text('vm'), thumbPrint: text('thumb'), port: port('port'), nfcHostPort: port('nfchostport'),
    ...(password !== undefined && { credType: CredType.UID, creds: { userName, password } }),
    ...(cookie !== undefined && { credType: CredType.SESSIONID, creds: { cookie, userName } }),
    ...(fcd !== undefined && { specType: SpecType.VSTORAGE_OBJECT, vStorageObjSpec: { id: fcd, datastoreMoRef: text('fcdds') ?? '', ...(given.has('fcdssid') && { ssId: text('fcdssid')! }) } }),
  };
  const said = ['host', 'vm', 'ssmoref', 'thumb', 'port', 'nfchostport', 'password', 'cookie', 'fcdid'].some((name) => given.has(name));
  if (said && params.serverName === undefined) throw misuse('Which server? -host NAME');
  return said ? params : null;
}

/** @throws CliError with exit code 2 */
export function wholeNumber(option: string, text: string, least: number, most = Number.MAX_SAFE_INTEGER): number {
  const value = /^(\d+|0x[\da-f]+)$/i.test(text) ? Number(text) : NaN;
  if (!(value >= least && value <= most)) throw misuse(`${option} takes a number${most < 2 ** 53 - 1 ? ` from ${least} to ${most}` : ` of at least ${least}`}, not '${text}'`);
  return value;
}
