/** The configuration file of VixDiskLib_InitEx: lines `name=value`, `#` begins a comment. */
import { readFileSync } from 'node:fs';
import { guarded, VixError } from './errors.js';

/** Settings by their names as written. */
export type Configuration = ReadonlyMap<string, string>;

/**
 * Names that are known; `numbers` with the range that is allowed. Others are kept and warned of, since other releases have more. Those
 * of `nfc` and `nfcAio` are about a protocol that is not spoken here: they are checked, and do nothing.
 */
const numbers: Readonly<Record<string, readonly [least: number, most: number]>> = {
  'vixDiskLib.transport.LogLevel': [0, 6],
  'vixDiskLib.nfc.LogLevel': [0, 4],
  'vixDiskLib.nfcAio.Session.BufSizeIn64KB': [1, 256],
  'vixDiskLib.nfcAio.Session.BufCount': [1, 64],
  'log.fileLevel': [0, 6],
};
const texts: readonly string[] = ['tmpDirectory', 'log.fileName'];

/**
 * Settings of a file's text. Unknown names are kept; each is told to `warn`.
 * @throws VixError VIX_E_INVALID_ARG for a line that is none, and for a number that is none or out of range
 */
export function parseConfiguration(text: string, warn: (message: string) => void = () => undefined): Configuration {
  const settings = new Map<string, string>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const content = line.replace(/(^|\s)#.*$/, '').trim();
    if (content === '') continue;
    const equals = content.indexOf('=');
    const name = content.slice(0, Math.max(0, equals)).trim();
    if (name === '') throw new VixError('VIX_E_INVALID_ARG', `line ${index + 1} of the configuration is not of the form name=value`);
    const value = content.slice(equals + 1).trim().replace(/^"(.*)"$/, '$1');
    const range = Object.hasOwn(numbers, name) ? numbers[name] : undefined;
    if (range !== undefined && !(/^\d+$/.test(value) && Number(value) >= range[0] && Number(value) <= range[1])) {
      throw new VixError('VIX_E_INVALID_ARG', `${name} must be a number from ${range[0]} to ${range[1]}`);
    }
    if (range === undefined && !texts.includes(name)) warn(`The setting '${name}' is not known: it is kept, and does nothing`);
    settings.set(name, value);
  }
  return settings;
}

/** A setting that is a number; undefined where it is not set. */
export function numberSetting(configuration: Configuration, name: string): number | undefined {
  const text = configuration.get(name);
  return text === undefined ? undefined : Number(text);
}

/** @throws VixError VIX_E_FILE_NOT_FOUND and the like; VIX_E_INVALID_ARG for what it holds */
export function readConfiguration(path: string, warn?: (message: string) => void): Promise<Configuration> {
  return guarded(path, () => parseConfiguration(readFileSync(path, 'utf8'), warn));
}
