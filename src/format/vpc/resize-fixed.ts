/** Changing the size of a fixed disk, whose footer lies where it grows to. */
import type { BlockChild } from '../../block/child.js';
import type { ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { footerSize, growingFooter, isFooter, parseFooter, type Footer } from './header.js';
import { footerOffset } from './layout.js';
import { footerForSize, requireSize } from './resize.js';

const fillChunk = 1 << 20;

/**
 * Resolves with the new footer. There are two for a moment: the file is cut behind the new one, and never grows ahead of it. Otherwise a
 * power cut, or a failure to give it room, could leave the file without a footer at its end.
 * @throws BlockError with the texts that other formats have for it
 */
export async function resizeFixed(file: BlockChild, footer: Footer, from: number, size: number, { preallocation }: ResizeOptions): Promise<Footer> {
  requireSize(size);
  if (preallocation === 'metadata') throw new BlockError('NOT_SUPPORTED', 'Unsupported preallocation mode: metadata', { errno: Errno.ENOTSUP });
  const next = footerForSize(footer, size);
  const former = footerOffset(file.size);
  const untilFooter = Math.min(size, former);
  if (from < untilFooter) {
    await file.writeZeroes(from, untilFooter - from);
    await file.flush();
  }
  if (size > former) return growOver(file, next, former, preallocation);
  await file.write(size, next.bytes);
  await file.flush();
  if (file.size > size + footerSize) {
    await file.resize(size + footerSize);
    await file.flush();
  }
  return next;
}

/** Until the former footer is gone, durably, the new one tells where it lies. */
async function growOver(file: BlockChild, next: Footer, former: number, preallocation: ResizeOptions['preallocation']): Promise<Footer> {
  const growing = growingFooter(next.bytes, former);
  await file.write(next.currentSize, growing.bytes);
  await file.flush();
  if (preallocation === 'falloc' || preallocation === 'full') await giveRoom(file, former + footerSize, next.currentSize, preallocation);
  return removeFormerFooter(file, growing, former);
}

/** Where the disk shows its former footer, since its growing was cut off. */
export async function findFormerFooter(file: BlockChild, { formerFooter, currentSize, uuid }: Footer): Promise<number | undefined> {
  if (formerFooter === undefined || formerFooter >= currentSize) return undefined;
  const bytes = new Uint8Array(footerSize);
  await file.read(formerFooter, bytes);
  return isFooter(bytes) && parseFooter(bytes).uuid.every((byte, index) => byte === uuid[index]) ? formerFooter : undefined;
}

/** Puts zeroes there, and resolves with a footer that tells of none. */
export async function removeFormerFooter(file: BlockChild, footer: Footer, at: number): Promise<Footer> {
  await file.writeZeroes(at, footerSize);
  await file.flush();
  const settled = growingFooter(footer.bytes, undefined);
  await file.write(footerOffset(file.size), settled.bytes);
  await file.flush();
  return settled;
}

/** Where there is none, the file ends as before. */
async function giveRoom(file: BlockChild, from: number, to: number, mode: 'falloc' | 'full'): Promise<void> {
  if (to <= from) return;
  const zeroes = new Uint8Array(Math.min(fillChunk, to - from));
  try {
    if (mode === 'falloc') await file.writeZeroes(from, to - from);
    else for (let at = from; at < to; at += zeroes.length) await file.write(at, zeroes.subarray(0, to - at));
  } catch (error) {
    await file.resize(from).catch(() => undefined);
    if (!(error instanceof BlockError)) throw error;
    throw new BlockError(error.code, `Could not ${mode === 'falloc' ? 'preallocate new data' : 'write zeros for preallocation'}: ${error.message}`, error.context, error);
  }
}
