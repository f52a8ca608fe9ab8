/**
 * A server in the background without fork(): the tool starts itself again in a session of its own, hands on what that says, and goes on
 * when it is told that the server listens.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { err } from './output.js';

const readyVariable = 'VDISK_READY_FD';
const READY_FD = 3;

/** Whether this process is the one in the background. */
export function inBackground(): boolean {
  return process.env[readyVariable] !== undefined;
}

/** Runs the same command in the background; resolves with 0 once it is ready, else with its exit code. `keepStderr`: it may go on complaining. */
export function startInBackground(keepStderr: boolean): Promise<number> {
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    detached: true, stdio: ['ignore', 'ignore', keepStderr ? 'inherit' : 'pipe', 'pipe'], env: { ...process.env, [readyVariable]: String(READY_FD) },
  });
  child.stderr?.on('data', (text: Buffer) => err(text.toString()));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.stdio[READY_FD]!.once('data', () => resolve(0));
    child.once('close', (code) => resolve(code ?? 1));
  });
}

/** Tells the waiting parent that the server listens. Without `keepStderr` nobody hears this process from then on. */
export function reportReady(keepStderr: boolean): void {
  if (!keepStderr) {
    closeSync(2);
    openSync('/dev/null', 'w'); // takes the lowest free number, which is 2
  }
  writeSync(READY_FD, '1');
  closeSync(READY_FD);
}
