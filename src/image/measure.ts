/** How large an image would become. */
import type { BlockBackend } from '../block/child.js';
import { protocolOf } from '../block/create.js';
import type { MeasureResult } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import { parseKeyValues } from '../block/key-values.js';
import { creatableFormat, createFields, parseCreateOptions, type CreateOptions } from './create.js';

/** Typed values of -o's text for a new file of that format. @throws BlockError */
export function measureOptions(graph: BlockGraph, format: string, text: string): CreateOptions {
  const fields = createFields(creatableFormat(graph, format), protocolOf(graph, ''));
  if (parseKeyValues(text).help) throw new BlockError('INVALID_ARGUMENT', "Invalid parameter 'help'");
  return parseCreateOptions(fields, text);
}

/**
 * Bytes that a new image file of a format takes: with the content of an image, or empty with `content` as its size in bytes.
 * @throws BlockError NOT_SUPPORTED where the format cannot tell
 */
export async function measureImage(graph: BlockGraph, format: string, options: CreateOptions, content: BlockBackend | number): Promise<MeasureResult> {
  const driver = creatableFormat(graph, format);
  if (!driver.measure) throw new BlockError('NOT_SUPPORTED', `Block driver '${format}' does not support size measurement`);
  if (typeof content === 'number') return driver.measure(undefined, { ...options, size: content });
  return driver.measure(content, { ...options, size: content.size });
}
