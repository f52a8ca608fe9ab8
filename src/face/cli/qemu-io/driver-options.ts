import { nestOptions, parseKeyValues, type Options } from '../../../block/key-values.js';
import type { CommandIo } from './command.js';

/** The nested dictionary behind `-o key=value,…`. Keys without a value are warned of. */
export function parseDriverOptions(text: string, { err, program }: CommandIo): Options {
  const { values, shorthand } = parseKeyValues(text);
  for (const { written, meant } of shorthand) err(`${program}: warning: short-form boolean option '${written}' deprecated\nPlease use ${meant} instead\n`);
  return nestOptions(Object.fromEntries(values));
}
