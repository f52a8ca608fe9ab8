/** Changing creation options of an existing image. */
import type { BlockBackend } from '../block/child.js';
import type { BlockDriver } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import { parseCreateOptions, type CreateFields } from './create.js';

/** Options that can be amended. @throws BlockError NOT_SUPPORTED where there are none */
export function amendFields(driver: BlockDriver): CreateFields {
  if (driver.amendOptions === undefined) throw new BlockError('NOT_SUPPORTED', `Format driver '${driver.name}' does not support option amendment`);
  return driver.amendOptions;
}

export interface AmendControl {
  readonly force?: boolean;
  readonly progress?: (done: number, total: number) => void;
}

/** Applies -o's text to the open image. */
export async function amendImage(backend: BlockBackend, optionText: string, control: AmendControl): Promise<void> {
  const { driver } = backend.node;
  const fields = amendFields(driver);
  const options = withHint(driver, () => parseCreateOptions(fields, optionText));
  const facet = backend.facet('amend');
  if (facet === undefined) throw new BlockError('NOT_SUPPORTED', `Format driver '${driver.name}' does not support option amendment`);
  await facet.amend(options, control);
}

/** An option that exists, but not for amending, deserves more than "invalid". */
function withHint<T>(driver: BlockDriver, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    const name = error instanceof BlockError ? /^Invalid parameter '(.*)'$/.exec(error.message)?.[1] : undefined;
    if (!(error instanceof BlockError) || name === undefined || driver.createOptions?.[name] === undefined) throw error;
    throw new BlockError(error.code, error.message, { ...error.context, hint: 'This option is only supported for image creation' }, error);
  }
}
