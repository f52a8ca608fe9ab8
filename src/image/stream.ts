/** An image as a stream of bytes, for pipes and HTTP bodies. */
import type { BlockBackend } from '../block/child.js';
import { BlockError } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import type { ImageStream } from '../block/stream.js';
import { creatableFormat, createFields, parseCreateOptions } from './create.js';

export interface StreamRequest {
  readonly format: string;
  /** Text of -o. */
  readonly optionText?: string | undefined;
}

/**
 * What `source` shows, as an image of another format. The source must not change until the stream has ended.
 * @throws BlockError NOT_SUPPORTED where the format cannot be written without going back
 */
export function streamImage(graph: BlockGraph, source: BlockBackend, { format, optionText }: StreamRequest): Promise<ImageStream> {
  const driver = creatableFormat(graph, format);
  if (!driver.stream) throw new BlockError('NOT_SUPPORTED', `Format driver '${format}' cannot write to a stream`);
  return driver.stream(source, parseCreateOptions(createFields(driver), optionText ?? ''));
}
