/** vixdisklib-sample: what VDDK's sample program does, in its order of calls. */
import { resolve } from 'node:path';
import { VixDiskLib_ConnectEx, VixDiskLib_Disconnect, VixDiskLib_EndAccess, VixDiskLib_Exit, VixDiskLib_InitEx, VixDiskLib_PrepareForAccess } from '../../vixdisklib/c-api.js';
import { out } from '../output.js';
import { explained, interruptible, warnLine } from '../vix.js';
import { commands } from './commands.js';
import { help } from './help.js';
import { parseOptions, type SampleOptions } from './options.js';

const identity = 'vixdisklib-sample';

export async function main(argv: string[]): Promise<number> {
  const options = parseOptions(argv);
  if (options === undefined) {
    out(help);
    return 0;
  }
  try {
    await VixDiskLib_InitEx(7, 0, null, warnLine, warnLine, options.libDir, options.configFile);
    await run(options);
    await VixDiskLib_Exit();
  } catch (error) {
    throw explained(error, `-${options.command} ${options.disk}`);
  }
  return 0;
}

async function run(options: SampleOptions): Promise<void> {
  const { params, readOnly, snapshot, modes } = options;
  const guarded = params?.vmxSpec !== undefined;
  if (guarded) await VixDiskLib_PrepareForAccess(params, identity);
  try {
    const connection = await VixDiskLib_ConnectEx(params, readOnly, snapshot, modes);
    try {
      const path = params === null ? resolve(options.disk) : options.disk;
      await interruptible((signal) => commands[options.command]({ connection, path, options, signal }));
    } finally {
      await VixDiskLib_Disconnect(connection);
    }
  } finally {
    if (guarded) await VixDiskLib_EndAccess(params, identity);
  }
}
