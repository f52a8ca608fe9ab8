/** The disk database of an open disk, as a map that waits. */
import type { BlockNode } from '../../block/node.js';
import { VixError } from './errors.js';
import { databaseOf, links } from './info.js';
import { diskFailure } from './opening.js';

/**
 * Keys stand without their `ddb.`: 'adapterType', 'geometry.heads', 'uuid'. What a disk does not say its parents may. A disk whose
 * format has no such database has no keys.
 */
export class DiskMetadata {
  readonly #node: () => BlockNode;
  readonly #path: string;

  /** @param node throws where the disk is closed */
  constructor(node: () => BlockNode, path: string) {
    this.#node = node;
    this.#path = path;
  }

  /** @throws VixError VIX_E_DISK_KEY_NOTFOUND. Since VDDK 1.0. */
  async get(key: string): Promise<string> {
    const value = this.#all().get(key);
    if (value === undefined) throw new VixError('VIX_E_DISK_KEY_NOTFOUND', `'${key}'`, { path: this.#path });
    return value;
  }

  /** Whether get() would find it. */
  async has(key: string): Promise<boolean> {
    return this.#all().has(key);
  }

  /**
   * Adds or changes an entry of the disk itself. An entry can be blanked, not deleted. Since VDDK 1.0.
   * @throws VixError VIX_E_FILE_READ_ONLY, VIX_E_DISK_NOTSUPPORTED, VIX_E_INVALID_ARG for a key or value that cannot be stored
   */
  async set(key: string, value: string): Promise<void> {
    const node = this.#node();
    const database = node.facet('diskDatabase');
    if (database === undefined) throw new VixError('VIX_E_DISK_NOTSUPPORTED', 'its format keeps no metadata', { path: this.#path });
    if (node.readOnly) throw new VixError('VIX_E_FILE_READ_ONLY', undefined, { path: this.#path });
    await database.set(key, value).catch((error: unknown) => { throw diskFailure(error, this.#path); });
  }

  /** Of the disk, then those that only its parents have. */
  async keys(): Promise<readonly string[]> {
    return [...this.#all().keys()];
  }

  /** All keys with their values, as get() finds them. */
  async entries(): Promise<ReadonlyMap<string, string>> {
    return this.#all();
  }

  /** The disk's own entries first. */
  #all(): ReadonlyMap<string, string> {
    const all = new Map<string, string>();
    for (const link of links(this.#node())) for (const [key, value] of databaseOf(link)) if (!all.has(key)) all.set(key, value);
    return all;
  }
}
