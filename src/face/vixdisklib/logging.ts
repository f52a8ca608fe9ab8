/** Where messages go. */
import { appendFileSync } from 'node:fs';

export type LogLevel = 'log' | 'warn' | 'panic';
/** Takes one line without its end. `component` says who speaks: 'vixDiskLib', 'transport'. */
export type LogFunction = (message: string, details: { readonly level: LogLevel; readonly component: string }) => void;

export interface LogFunctions {
  readonly log?: LogFunction | undefined;
  readonly warn?: LogFunction | undefined;
  /** What cannot go on. It must not end the process. */
  readonly panic?: LogFunction | undefined;
}

/** Functions that add lines to a file, for those that were not given. */
export function withLogFile(functions: LogFunctions, path: string | undefined): LogFunctions {
  if (path === undefined) return functions;
  const write: LogFunction = (message, { level, component }) => appendFileSync(path, `${new Date().toISOString()} ${level} ${component}: ${message}\n`, { mode: 0o600 });
  return { log: functions.log ?? write, warn: functions.warn ?? write, panic: functions.panic ?? write };
}

export class Logger {
  readonly #functions: LogFunctions;

  constructor(functions: LogFunctions) {
    this.#functions = functions;
  }

  log(message: string, component = 'vixDiskLib'): void {
    this.#functions.log?.(message, { level: 'log', component });
  }

  warn(message: string, component = 'vixDiskLib'): void {
    this.#functions.warn?.(message, { level: 'warn', component });
  }

  panic(message: string, component = 'vixDiskLib'): void {
    this.#functions.panic?.(message, { level: 'panic', component });
  }
}
