/** What formats share that can only be read. */
import type { BlockChild } from './child.js';
import { readOnlyCapabilities, type Capabilities, type OpenContext } from './driver.js';
import { BlockError, Errno, systemError } from './errors.js';
import { MappedFormat } from './mapped-format.js';

/** A {@link MappedFormat} that nobody writes to: only map() is left to supply, and readEncoded() where data is encoded. */
export abstract class ReadOnlyFormat extends MappedFormat {
  protected readonly cow: BlockChild | undefined = undefined;

  get capabilities(): Capabilities {
    return readOnlyCapabilities;
  }

  protected writable(): undefined {
    return undefined;
  }

  protected allocate(): never {
    throw systemError(Errno.ENOTSUP);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** @throws BlockError PERMISSION where a layer that can only be read is to be written to */
export function assertReadOnly({ readOnly, options }: Pick<OpenContext<object>, 'readOnly' | 'options'>): void {
  const yields = (options as { readonly 'auto-read-only'?: boolean })['auto-read-only'] === true;
  if (!readOnly && !yields) throw new BlockError('PERMISSION', 'Image is read-only', { errno: Errno.EACCES });
}
