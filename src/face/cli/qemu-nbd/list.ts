/** qemu-nbd -L: what another server offers. */
import { ByteChannel } from '../../../platform/byte-channel.js';
import { BlockError } from '../../../block/errors.js';
import { NbdFormatError } from '../../../wire/nbd/handshake.js';
import { NbdNegotiationError } from '../../../wire/nbd/negotiate.js';
import { surveyExports, type SurveyedExport, type Survey } from '../../../wire/nbd/survey.js';
import { CliError, out } from '../output.js';
import { credentials } from './credentials.js';
import type { NbdToolOptions } from './options.js';

const flagNames = [
  [1, 'readonly'], [2, 'flush'], [3, 'fua'], [4, 'rotational'], [5, 'trim'], [6, 'zeroes'], [7, 'df'], [8, 'multi'], [9, 'resize'], [10, 'cache'],
  [11, 'fast-zero'], [12, 'block-status-payload'],
] as const;

export async function listExports(options: NbdToolOptions): Promise<number> {
  const address = options.socket === undefined
    ? { type: 'inet' as const, host: options.bind ?? '0.0.0.0', port: options.port ?? '10809' }
    : { type: 'unix' as const, path: options.socket };
  const tls = options.tlsCreds === undefined ? undefined : credentials(options.tlsCreds, 'client');
  try {
    const channel = await ByteChannel.connect(address, { plain: tls === undefined });
    const survey = await surveyExports({
      read: (length, what) => channel.read(length, what),
      write: (bytes) => channel.write(bytes),
      startTls: () => channel.startTls({ credentials: tls!, hostname: options.tlsHostname }),
    }, tls !== undefined);
    channel.end();
    printSurvey(survey);
    return 0;
  } catch (error) {
    if (error instanceof NbdNegotiationError) throw new CliError(error.message, error.hint === undefined ? {} : { hint: error.hint });
    if (error instanceof NbdFormatError || error instanceof BlockError) throw new CliError(error.message);
    throw error;
  }
}

function printSurvey({ exports, style }: Survey): void {
  out(`exports available: ${exports.length}\n`);
  for (const each of exports) printExport(each, style);
}

function printExport(each: SurveyedExport, style: Survey['style']): void {
  out(` export: '${each.name}'\n`);
  if (each.description !== '') out(`  description: ${each.description}\n`);
  if (each.size !== undefined) {
    const { flags = 0, blockSizes } = each;
    out(`  size:  ${each.size}\n`);
    if ((flags & 1) !== 0) out(`  flags: 0x${flags.toString(16)} ( ${flagNames.filter(([bit]) => (flags & (1 << bit)) !== 0).map(([, name]) => `${name} `).join('')})\n`);
    if (blockSizes !== undefined) out(`  min block: ${blockSizes.minimum}\n  opt block: ${blockSizes.preferred}\n  max block: ${blockSizes.maximum}\n`);
    if (style !== 'simple') out(`  transaction size: ${style === 'extended' ? '64-bit' : '32-bit'}\n`);
  }
  if (each.contexts.length > 0) out(`  available meta contexts: ${each.contexts.length}\n${each.contexts.map((name) => `   ${name}\n`).join('')}`);
}
