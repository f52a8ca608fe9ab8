/** A backend whose bytes lie plainly in a host file: they can go from the page cache to a socket without passing through here. */
import { statfsSync } from 'node:fs';
import type { BlockBackend } from '../../block/child.js';
import { native, type Native } from '../../platform/native.js';

/** Layers that hand bytes on as they are; a filter may have to see every request. */
const plainDrivers = new Set(['raw', 'file', 'host_device']);
const memoryFileSystems = new Set([0x01021994 /* tmpfs */, 0x858458f6 /* ramfs */]);
const PAGE = 4096;
/** Linux reads ahead this much unless told otherwise. */
const READ_AHEAD = 128 * 1024;

export class PlainFile {
  readonly #backend: BlockBackend;
  readonly #native: Native;
  readonly #probe = new Uint8Array(1);
  /** Undefined until a file system that cannot tell what it has cached was met. */
  #inMemory: boolean | undefined;

  private constructor(backend: BlockBackend, calls: Native) {
    this.#backend = backend;
    this.#native = calls;
  }

  /** Undefined where the backend is not plain, avoids the page cache, or the system calls are missing. */
  static of(backend: BlockBackend): PlainFile | undefined {
    const calls = native();
    const { node } = backend;
    if (calls === undefined || !plainDrivers.has(node.driver.name) || backend.facet('descriptor') === undefined) return undefined;
    const layers = [node, ...[...node.children.values()].map((child) => child.node)];
    return layers.some((layer) => layer.settings.direct || !plainDrivers.has(layer.driver.name)) ? undefined : new PlainFile(backend, calls);
  }

  /**
   * Whether the range can be sent without waiting for a device. One page in each READ_AHEAD bytes, and the last, stand for those
   * between them: the kernel reads ahead in pieces no smaller.
   */
  cached(offset: number, length: number): boolean {
    const fd = this.#backend.facet('descriptor')?.fd;
    if (fd === undefined) return false;
    const end = offset + length;
    for (let at = offset; at < end && this.#inMemory !== true; at += READ_AHEAD) if (!this.#cached(fd, at)) return false;
    return this.#cached(fd, end - 1);
  }

  /** Sends what the socket takes now; bytes sent. */
  send(socketFd: number, offset: number, length: number): number {
    const fd = this.#backend.facet('descriptor')?.fd;
    const sent = fd === undefined ? 0 : Math.max(0, this.#native.sendfile(socketFd, fd, offset, length));
    this.#backend.stats.readBytes += sent;
    this.#backend.stats.readOperations++;
    return sent;
  }

  #cached(fd: number, offset: number): boolean {
    if (this.#inMemory !== undefined) return this.#inMemory;
    const answer = this.#native.readNow(fd, this.#probe, offset - (offset % PAGE));
    if (answer >= 0) return answer === 1;
    if (answer === -EAGAIN) return false;
    this.#inMemory = memoryFileSystems.has(statfsSync(`/proc/self/fd/${fd}`).type);
    return this.#inMemory;
  }
}

const EAGAIN = 11;
