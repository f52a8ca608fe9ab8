/** Options of opening and creating an image. */
import type { CreateSchema, OptionSchema } from '../../block/options.js';

export interface ParallelsOptions {
  /** Bytes by which the file grows ahead of need. */
  readonly 'prealloc-size'?: number;
  readonly 'prealloc-mode'?: 'falloc' | 'truncate';
}

export const openOptions: OptionSchema<ParallelsOptions> = {
  'prealloc-size': { type: 'size', default: 128 * 1024 * 1024, strong: false, help: 'Preallocation size on image expansion' },
  'prealloc-mode': { type: 'enum', values: ['falloc', 'truncate'], default: 'falloc', strong: false, help: 'Preallocation mode on image expansion (allowed values: falloc, truncate)' },
};

export const defaultClusterSize = 1 << 20;

export const createOptions: CreateSchema = {
  size: { type: 'size', help: 'Virtual disk size' },
  cluster_size: { type: 'size', help: 'Parallels image cluster size', default: defaultClusterSize },
};
