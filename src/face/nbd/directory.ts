/** A directory of images as exports: opened when a client asks, closed when the last one leaves. Nothing outside it is ever opened. */
import { readdirSync, realpathSync } from 'node:fs';
import { extname, join } from 'node:path';
import { BlockError } from '../../block/errors.js';
import { BlockGraph } from '../../block/graph.js';
import type { DriverRegistry } from '../../block/registry.js';
import { NbdExport, type ExportDirectory, type ExportListing } from './exports.js';
import { directoryGate, isFileInside } from './gate.js';

export interface DirectoryOptions {
  readonly drivers: DriverRegistry;
  /** Images may be written, except those whose format is a guess that came out as raw. */
  readonly writable: boolean;
}

/** Names that state a format; the content of other files is looked at. */
const formatOfName: Readonly<Record<string, string>> = { '.raw': 'raw', '.qcow2': 'qcow2' };
const MAX_LISTED = 10_000;

/** Of a file in the directory itself that is not hidden. */
const isPlainName = (name: string): boolean => !name.startsWith('.') && !name.includes('/');

interface Open { readonly opening: Promise<NbdExport>; users: number }

export class DirectoryExports implements ExportDirectory {
  readonly #root: string;
  readonly #writable: boolean;
  readonly #graph: BlockGraph;
  readonly #open = new Map<string, Open>();
  /** Images that nobody uses any more; they are locked until they are closed. */
  readonly #closing = new Map<string, Promise<void>>();

  /** @param root an existing directory */
  constructor(root: string, options: DirectoryOptions) {
    this.#root = realpathSync(root);
    this.#writable = options.writable;
    this.#graph = new BlockGraph({ drivers: options.drivers, gate: directoryGate(this.#root) });
  }

  /** File names, sorted; files that come later are served without more ado. */
  names(): string[] {
    return readdirSync(this.#root, { withFileTypes: true })
      .filter((entry) => isPlainName(entry.name) && (entry.isFile() || (entry.isSymbolicLink() && this.#isServed(entry.name))))
      .map(({ name }) => name).sort().slice(0, MAX_LISTED);
  }

  #isServed(name: string): boolean {
    return isPlainName(name) && isFileInside(this.#root, join(this.#root, name));
  }

  #onlyName(): string | undefined {
    const names = this.names();
    return names.length === 1 ? names[0] : undefined;
  }

  list(): readonly ExportListing[] {
    return this.names().map((name) => ({ name, description: '' }));
  }

  async acquire(name: string): Promise<NbdExport | undefined> {
    const chosen = name === '' ? this.#onlyName() : name;
    if (chosen === undefined || !this.#isServed(chosen)) return undefined;
    let open = this.#open.get(chosen);
    if (open === undefined) {
      open = { opening: Promise.resolve(this.#closing.get(chosen)).then(() => this.#openImage(chosen)), users: 0 };
      this.#open.set(chosen, open);
    }
    open.users++;
    try {
      return await open.opening;
    } catch (error) {
      if (this.#open.get(chosen) === open) this.#open.delete(chosen);
      throw error;
    }
  }

  release(lent: NbdExport): void {
    const open = this.#open.get(lent.name);
    if (open === undefined || --open.users > 0) return;
    this.#open.delete(lent.name);
    const closed = lent.backend.close()
      .catch((error: unknown) => process.emitWarning(error instanceof Error ? error : String(error)))
      .finally(() => this.#closing.delete(lent.name));
    this.#closing.set(lent.name, closed);
  }

  /** Closes what is open; rejects where something could not be made durable. */
  async close(): Promise<void> {
    await Promise.all(this.#closing.values());
    await this.#graph.close();
  }

  async #openImage(name: string): Promise<NbdExport> {
    const filename = join(this.#root, name);
    const driver = formatOfName[extname(name).toLowerCase()];
    const open = (readOnly: boolean): Promise<NbdExport['backend']> => this.#graph.openBackend(filename, { driver, readOnly, discard: 'unmap' });
    let backend = await open(!this.#writable);
    if (this.#writable && driver === undefined && backend.node.driver.name === 'raw') {
      await backend.close();
      backend = await open(true);
    }
    return new NbdExport(backend, { name, writable: this.#writable, allocationDepth: true, bitmaps: usableBitmaps(backend, !this.#writable) });
  }
}

function usableBitmaps(backend: NbdExport['backend'], readOnly: boolean): string[] {
  return [...backend.node.bitmaps.values()].filter((bitmap) => {
    try {
      bitmap.assertUsable({});
      return !readOnly || backend.readOnly || !bitmap.recording;
    } catch (error) {
      if (error instanceof BlockError) return false;
      throw error;
    }
  }).map(({ name }) => name);
}
