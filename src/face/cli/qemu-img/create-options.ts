/** Options of new images as text: the table of `-o help`, the line that announces a new image. */
import type { CreateField, OptionValue } from '../../../block/options.js';
import { parseKeyValues } from '../../../block/key-values.js';
import { formatBytes } from '../../../util/units.js';

const typeNames = { string: 'str', boolean: 'bool (on/off)', size: 'size', number: 'num' } as const;

/** Whether an -o list asks for help. */
export function asksForHelp(optionText: string | undefined): boolean {
  return optionText !== undefined && parseKeyValues(optionText).help;
}

/** `caption` and a line for each option, by name. */
export function optionTable(caption: string, fields: Readonly<Record<string, CreateField>>): string {
  const lines = Object.entries(fields)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, { type, help }]) => `  ${`${name}=<${typeNames[type]}>`.padEnd(22)} - ${help}\n`);
  return `${caption}\n${lines.join('')}`;
}

/** `Formatting 'disk', fmt=qcow2 size=…` */
export function formattingLine(filename: string, format: string, options: readonly (readonly [string, OptionValue])[]): string {
  const values = options.map(([name, value]) => ` ${name}=${valueText(value)}`);
  return `Formatting '${filename}', fmt=${format}${values.join('')}\n`;
}

function valueText(value: OptionValue): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  // the peer counts with a sign
  if (typeof value === 'number') return value < 2 ** 63 ? formatBytes(value) : BigInt.asIntN(64, BigInt(value)).toString();
  return String(value).replaceAll(',', ',,');
}
