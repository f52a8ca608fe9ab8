/** vmware-vdiskmanager: makes and keeps VMware's disks. */
import { allowImplicitOpens } from '../../../block/gate.js';
import { isVixError } from '../../vixdisklib/errors.js';
import { DiskLib } from '../../vixdisklib/library.js';
import { out } from '../output.js';
import { explained, interruptible, percentLine, warnLine } from '../vix.js';
import { help } from './help.js';
import { perform, titles } from './operations.js';
import { parseOptions } from './options.js';

export async function main(argv: string[]): Promise<number> {
  const request = parseOptions(argv);
  if (request.operation === 'help') {
    out(help);
    return 0;
  }
  const { operation, disk, quiet, json } = request;
  const [title, failing] = titles[operation];
  const silent = quiet || json;
  const line = percentLine(title);
  if (!silent && (operation === 'create' || operation === 'convert')) out(`Creating disk '${disk}'\n`);
  await using library = await DiskLib.init({ warn: warnLine, gate: allowImplicitOpens });
  try {
    const { text, exitCode = 0, details } = await interruptible((signal) => perform(library, request, {
      signal, onProgress: silent ? () => undefined : line.show,
    }));
    line.end();
    if (json) out(`${JSON.stringify({ operation, disk, 'exit-code': exitCode, ...details })}\n`);
    else if (!quiet || exitCode !== 0) out(`${text}\n`);
    return exitCode;
  } catch (error) {
    line.end();
    if (json && isVixError(error)) {
      out(`${JSON.stringify({ operation, disk, 'exit-code': 1, error: error.symbol, code: error.code, message: error.message })}\n`);
      return 1;
    }
    throw explained(error, `Failed to ${failing} ${operation === 'prepare' ? '' : 'disk '}'${operation === 'convert' || operation === 'rename' ? request.source : disk}'`);
  }
}
