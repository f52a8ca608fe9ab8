/** What the command lines on VixDiskLib share: errors in its words, operations that Ctrl-C ends cleanly. */
import { getErrorText } from '../vixdisklib/error-codes.js';
import { isVixError, type VixError } from '../vixdisklib/errors.js';
import { CliError, err, flushOut, out, programName } from './output.js';

/** A command line that was not understood. */
export function misuse(message: string): CliError {
  return new CliError(message, { exitCode: 2, hint: `Try '${programName()} --help' for more information` });
}

/** `what: text (0x3e88, VIX_E_DISK_CID_MISMATCH)`, with the particulars below; other errors stay what they are. */
export function explained(error: unknown, what: string): unknown {
  if (!isVixError(error)) return error;
  const detail = detailOf(error);
  return new CliError(`${what}: ${getErrorText(error.code)} (0x${error.code.toString(16)}, ${error.symbol})`, { cause: error, ...(detail !== undefined && { hint: detail }) });
}

function detailOf({ code, message }: VixError): string | undefined {
  const text = `${getErrorText(code)}: `;
  return message.startsWith(text) ? message.slice(text.length) : undefined;
}

/**
 * Does some work that the first Ctrl-C (or SIGTERM) asks to end: it can put away what it has begun, then the process ends by that
 * signal. The second one ends it at once.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  let received: NodeJS.Signals | undefined;
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const stop = (signal: NodeJS.Signals): void => {
    for (const other of signals) process.off(other, stop);
    received = signal;
    controller.abort();
  };
  for (const signal of signals) process.on(signal, stop);
  try {
    return await work(controller.signal);
  } finally {
    for (const signal of signals) process.off(signal, stop);
    if (received !== undefined) {
      out('\n');
      flushOut();
      process.kill(process.pid, received);
      await new Promise(() => setTimeout(() => undefined, 1000));
    }
  }
}

/** The vendor's percentage line, rewritten in place: `  Create: 42% done.` */
export function percentLine(title: string): { show(progress: { readonly percent: number }): void; end(): void } {
  let shown = false;
  return {
    show: ({ percent }) => {
      shown = true;
      out(`\r  ${title}: ${percent}% done.`);
      flushOut();
    },
    end: () => {
      if (shown) out('\n');
      shown = false;
    },
  };
}

/** Lines of VixDiskLib's own voice on standard error. */
export function warnLine(message: string): void { err(`${programName()}: warning: ${message}\n`); }
