import type { BlockDriver } from './driver.js';

/** Drivers by name and by protocol prefix. Loaders let a face register a driver whose module is fetched on first use. */
export class DriverRegistry {
  readonly #drivers = new Map<string, BlockDriver>();
  readonly #prefixes = new Map<string, BlockDriver>();

  constructor(drivers: Iterable<BlockDriver> = []) {
    for (const driver of drivers) this.add(driver);
  }

  add(driver: BlockDriver): void {
    this.#drivers.set(driver.name, driver);
    for (const prefix of driver.protocolPrefixes ?? []) this.#prefixes.set(prefix, driver);
  }

  get(name: string): BlockDriver | undefined {
    return this.#drivers.get(name);
  }

  /** The driver that answers to filenames `prefix:…`. */
  byPrefix(prefix: string): BlockDriver | undefined {
    return this.#prefixes.get(prefix);
  }

  /** The driver of filenames without prefix. */
  byPath(filename: string): BlockDriver | undefined {
    for (const driver of this.#drivers.values()) if (driver.claims?.(filename)) return driver;
    return this.#drivers.get('file');
  }

  [Symbol.iterator](): IterableIterator<BlockDriver> {
    return this.#drivers.values();
  }
}
