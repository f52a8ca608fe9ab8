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

/** VDDK's number of each level: a setting lets through what has its number or a smaller one. */
const numbers: Readonly<Record<LogLevel, number>> = { panic: 0, warn: 2, log: 3 };
const usualLevel = 3;

/** Functions that add lines to a file, for those that were not given; up to `most` of VDDK's levels. */
export function withLogFile(functions: LogFunctions, path: string | undefined, most = usualLevel): LogFunctions {
  if (path === undefined) return functions;
  const write: LogFunction = (message, { level, component }) => {
    if (numbers[level] <= most) appendFileSync(path, `${new Date().toISOString()} ${level} ${component}: ${message}\n`, { mode: 0o600 });
  };
  return { log: functions.log ?? write, warn: functions.warn ?? write, panic: functions.panic ?? write };
}

export class Logger {
  readonly #functions: LogFunctions;
  readonly #transportLevel: number;

  /** @param transportLevel up to which of VDDK's levels the component 'transport' is heard */
  constructor(functions: LogFunctions, transportLevel = usualLevel) {
    this.#functions = functions;
    this.#transportLevel = transportLevel;
  }

  log(message: string, component?: string): void {
    this.#say('log', message, component);
  }

  warn(message: string, component?: string): void {
    this.#say('warn', message, component);
  }

  panic(message: string, component?: string): void {
    this.#say('panic', message, component);
  }

  #say(level: LogLevel, message: string, component = 'vixDiskLib'): void {
    if (component === 'transport' && numbers[level] > this.#transportLevel) return;
    this.#functions[level]?.(message, { level, component });
  }
}
