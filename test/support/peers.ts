/**
 * The foreign tools that judge us. Tests ask for them here, so that a missing one is said aloud, and fails where CI=true.
 */
import { spawnSync, type SpawnSyncOptionsWithStringEncoding, type SpawnSyncReturns } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { tmpdir } from 'node:os';

const ci = process.env['CI'] === 'true';

/**
 * Runs a program to its end. QEMU measures its key derivation against a clock of 4 ms, and gives up where that did not move: then it
 * is asked again.
 */
export function runProgram(program: string, parameters: readonly string[], options: Omit<SpawnSyncOptionsWithStringEncoding, 'encoding'>): SpawnSyncReturns<string> {
  for (let tries = 40; ; tries--) {
    const ended = spawnSync(program, parameters, { timeout: 120_000, maxBuffer: 1 << 26, ...options, encoding: 'utf8' });
    if (tries === 1 || ended.stderr?.includes('Unable to get accurate CPU usage') !== true) return ended;
  }
}

/** `../shared` beside the project: QEMU's test suite and the means to fetch QEMU 10. A fresh clone has none. */
const shared = join(import.meta.dirname, '../../../shared');

function executable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function onPath(command: string): boolean {
  return [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'].some((folder) => executable(join(folder, command)));
}

/**
 * Whether all these commands are installed; use it in `describe.skipIf(!havePeers('nbdkit'))`.
 * Throws where one is missing in CI, says so loudly elsewhere.
 */
export function havePeers(...commands: readonly string[]): boolean {
  const missing = commands.filter((command) => !onPath(command));
  if (missing.length === 0) return true;
  const text = `Not installed: ${missing.join(', ')}`;
  if (ci) throw new Error(text);
  console.warn(`!!! ${text}. The tests against it are NOT run.`);
  return false;
}

/** A file of `../shared`, or undefined (said aloud) where it does not lie beside the project. */
function sharedFile(name: string): string | undefined {
  const path = join(shared, name);
  if (executable(path)) return path;
  console.warn(`!!! ../shared/${name} does not lie beside the project. The tests that use it are NOT run.`);
  return undefined;
}

/**
 * QEMU 10's own tools by absolute path, fetched at first use through `../shared/iotests/oracle`; undefined (said aloud) where that
 * does not lie beside the project or cannot fetch them. Throws where it cannot in CI.
 */
export function oracleTool(name: 'qemu-img' | 'qemu-io' | 'qemu-nbd'): string | undefined {
  const oracle = sharedFile('iotests/oracle');
  if (oracle === undefined) return undefined;
  const tool = join(process.env['IOTESTS_CACHE'] ?? join(tmpdir(), 'iotests-cache'), 'root10/usr/bin', name);
  if (!executable(tool)) spawnSync(oracle, ['true'], { stdio: 'inherit' });
  if (executable(tool)) return tool;
  if (ci) throw new Error('QEMU 10 could not be fetched');
  console.warn('!!! QEMU 10 could not be fetched. The tests that compare with it are NOT run.');
  return undefined;
}
