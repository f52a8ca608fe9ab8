/** Images in a folder of their own, for tests that use the library on real files. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BlockBackend } from '../../src/block/child.js';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph, type BackendOptions } from '../../src/block/graph.js';
import type { UserObjects } from '../../src/block/objects.js';
import type { OptionValue } from '../../src/block/options.js';
import { createRegistry } from '../../src/drivers.js';

export class ImageFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'vdisk-images-'));
  readonly graph: BlockGraph;
  /** Lines that drivers reported. */
  readonly reports: string[] = [];
  #count = 0;

  constructor(objects: UserObjects = new Map()) {
    this.graph = new BlockGraph({ drivers: createRegistry(), gate: () => true, objects });
    this.graph.onReport = (line) => this.reports.push(line);
  }

  /** A name that is not used yet. */
  file(suffix: string): string {
    return join(this.path, `${this.#count++}.${suffix}`);
  }

  /** Makes an image; returns its name. */
  async create(format: string, size: number, options: Readonly<Record<string, OptionValue>> = {}): Promise<string> {
    const filename = this.file(format);
    await createImageFile(this.graph, { filename, format, size, options });
    return filename;
  }

  open(format: string, filename: string, options: BackendOptions & { readonly with?: Record<string, unknown> } = {}): Promise<BlockBackend> {
    const { with: extra, ...rest } = options;
    return this.graph.openBackend({ driver: format, file: { driver: 'file', filename }, ...extra }, { discard: 'unmap', ...rest });
  }

  /** Opens, uses and closes an image. */
  async use<T>(format: string, filename: string, action: (disk: BlockBackend) => Promise<T> | T, options: BackendOptions & { readonly with?: Record<string, unknown> } = {}): Promise<T> {
    const disk = await this.open(format, filename, options);
    try {
      return await action(disk);
    } finally {
      await disk.close();
    }
  }

  /** What the guest sees. */
  content(format: string, filename: string, options: BackendOptions & { readonly with?: Record<string, unknown> } = {}): Promise<Uint8Array> {
    return this.use(format, filename, async (disk) => {
      const bytes = new Uint8Array(disk.size);
      await disk.read(0, bytes);
      return bytes;
    }, { readOnly: true, ...options });
  }

  bytes(filename: string): Buffer {
    return readFileSync(filename);
  }

  /** Changes bytes of a file behind everybody's back. */
  patch(filename: string, ...changes: readonly (readonly [offset: number, ...bytes: readonly number[]])[]): void {
    const bytes = readFileSync(filename);
    for (const [offset, ...values] of changes) bytes.set(values, offset);
    writeFileSync(filename, bytes);
  }

  async remove(): Promise<void> {
    await this.graph.close();
    rmSync(this.path, { recursive: true, force: true });
  }
}
