/** Where messages go. */

export type LogLevel = 'log' | 'warn' | 'panic';
/** Takes one line without its end. `component` says who speaks: 'vixDiskLib', 'transport'. */
export type LogFunction = (message: string, details: { readonly level: LogLevel; readonly component: string }) => void;

export interface LogFunctions {
  readonly log?: LogFunction | undefined;
  readonly warn?: LogFunction | undefined;
  /** What cannot go on. It must not end the process. */
  readonly panic?: LogFunction | undefined;
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
