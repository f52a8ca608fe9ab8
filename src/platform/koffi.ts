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

interface Found { readonly koffi?: Koffi; readonly path?: string; readonly reason?: string }
let found: Found | undefined;

function find(): Found {
  if (process.env['VDISK_NATIVE'] === '0') return { reason: 'VDISK_NATIVE=0 switches it off' };
  const require = createRequire(import.meta.url);
  const loaded = (name: string): Found => {
    const path = require.resolve(name);
    return { koffi: require(path) as Koffi, path };
  };
  try {
    // What koffi's own loader ends with on most machines, in a fifth of the time: it works out what this machine is.
    return loaded(`@koromix/koffi-${process.platform}-${process.arch}/${process.platform}_${process.arch}/koffi.node`);
  } catch { /* then by way of the loader */ }
  try {
    return loaded('koffi');
  } catch (error) {
    return { reason: `the optional package koffi does not load: ${error instanceof Error ? error.message.split('\n', 1)[0] : String(error)}` };
  }
}

/** Koffi; undefined where it is not installed or VDISK_NATIVE=0 forbids it. */
export function koffi(): Koffi | undefined {
  return (found ??= find()).koffi;
}

/** What other threads `require`; undefined where there is no koffi. */
export function koffiPath(): string | undefined {
  return (found ??= find()).path;
}

/** Why {@link koffi} gives nothing; undefined where it does. */
export function koffiMissing(): string | undefined {
  return (found ??= find()).reason;
}

/** A call on another thread. */
export interface LaterCall {
  readonly call: ForeignFunction;
  /** Memory among them lives on until the call has ended. */
  readonly parameters: readonly unknown[];
  /** Finds errno as the call left it. `failure`: it was not made. */
  readonly ended: (failure: Error | undefined, result: number) => void;
}

/** koffi refuses more than 256 in a process. */
const mostCalls = 128;
const callsUnderWay = new Set<LaterCall>();
const callsWaiting: LaterCall[] = [];

/** Makes a call on another thread, when there are not too many under way. */
export function callLater(later: LaterCall): void {
  if (callsUnderWay.size === mostCalls) callsWaiting.push(later);
  else begin(later);
}

function begin(later: LaterCall): void {
  callsUnderWay.add(later);
  try {
    later.call.async(...later.parameters, (failure: Error | null, result: number) => finish(later, failure ?? undefined, result));
  } catch (error) {
    finish(later, error as Error, -1);
  }
}

function finish(later: LaterCall, failure: Error | undefined, result: number): void {
  callsUnderWay.delete(later);
  try {
    later.ended(failure, result);
  } finally {
    const next = callsWaiting.shift();
    if (next) begin(next);
  }
}
