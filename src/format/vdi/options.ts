/** Options of a new image. */
import type { CreateSchema } from '../../block/options.js';

/** In the order in which creation announces them. */
export const createOptions: CreateSchema = {
  'size': { type: 'size', help: 'Virtual disk size' },
  'static': { type: 'boolean', help: 'VDI static (pre-allocated) image', default: false },
};
