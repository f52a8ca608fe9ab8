/** The process in the background that holds a disk open and serves it on a socket of this user's. */
import { Perm } from '../../../block/driver.js';
import { ExportRegistry, NbdExport } from '../../nbd/exports.js';
import { NbdServer } from '../../nbd/server.js';
import { reportReady } from '../background.js';
import { closeGraph, openImage } from '../open.js';
import { processName, remember, socketOf } from './state.js';

/** Serves until its last client leaves or it is told to stop. With `addressOnly` clients may come and go. */
export async function serveDisk(disk: string, { readOnly, addressOnly }: { readOnly: boolean; addressOnly: boolean }): Promise<number> {
  const backend = await openImage(disk, { writable: !readOnly, options: { share: Perm.ALL, discard: 'unmap' } });
  try {
    let end = (): void => undefined;
    const ended = new Promise<void>((resolve) => { end = resolve; });
    const server = new NbdServer({
      exports: new ExportRegistry([new NbdExport(backend, { name: '', writable: !readOnly })]),
      onDisconnect: (remaining) => { if (remaining === 0 && !addressOnly) end(); },
    });
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end);
    await server.listen({ type: 'unix', path: socketOf(disk) });
    remember({ disk, readOnly, addressOnly, server: processName(process.pid), uses: [] });
    process.chdir('/');
    reportReady(false);
    await ended;
    await server.stop();
    return 0;
  } finally {
    await backend.close();
    await closeGraph();
  }
}
