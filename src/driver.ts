/** What authors of drivers need. */
export { BlockChild } from './block/child.js';
export * from './block/driver.js';
export { BlockError, Errno, systemError } from './block/errors.js';
export type * from './block/facets.js';
export type { CreateField, CreateSchema, OptionField, OptionSchema, OptionValue } from './block/options.js';
export { andThen, always, isPromise, type MaybePromise } from './util/maybe.js';
