/** The foreign-function library koffi, an optional package, loaded when it is first asked for. */
import { createRequire } from 'node:module';

/** A C function. Numbers stand for integers and addresses, typed arrays for memory. */
export interface ForeignFunction {
  (...parameters: readonly unknown[]): number;
  /** The same on another thread; `callback` comes last. */
  async(...parametersAndCallback: readonly unknown[]): void;
}

export interface ForeignLibrary {
  func(name: string, result: string, parameters: readonly string[]): ForeignFunction;
}

/** The part of koffi that is used. */
export interface Koffi {
  /** Null loads what the process itself is linked with. Throws if there is no such library. */
  load(path: string | null): ForeignLibrary;
  address(memory: ArrayBufferLike | ArrayBufferView): bigint;
  errno(): number;
}

let found: { readonly koffi?: Koffi; readonly reason?: string } | undefined;

function find(): { readonly koffi?: Koffi; readonly reason?: string } {
  if (process.env['VDISK_NATIVE'] === '0') return { reason: 'VDISK_NATIVE=0 switches it off' };
  const require = createRequire(import.meta.url);
  try {
    // What koffi's own loader ends with on most machines, in a fifth of the time: it works out what this machine is.
    return { koffi: require(`@koromix/koffi-${process.platform}-${process.arch}/${process.platform}_${process.arch}/koffi.node`) as Koffi };
  } catch { /* then by way of the loader */ }
  try {
    return { koffi: require('koffi') as Koffi };
  } catch (error) {
    return { reason: `the optional package koffi does not load: ${error instanceof Error ? error.message.split('\n', 1)[0] : String(error)}` };
  }
}

/** Koffi; undefined where it is not installed or VDISK_NATIVE=0 forbids it. */
export function koffi(): Koffi | undefined {
  return (found ??= find()).koffi;
}

/** Why {@link koffi} gives nothing; undefined where it does. */
export function koffiMissing(): string | undefined {
  return (found ??= find()).reason;
}
