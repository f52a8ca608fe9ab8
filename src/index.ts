/** vdisk: the block graph and the offline verbs. */
export { BlockBackend, BlockChild, type BackendStats } from './block/child.js';
export { createImageFile, type CreateRequest } from './block/create.js';
export { Perm, Req, type Preallocation } from './block/driver.js';
export { BlockError, Errno, strerror, type BlockErrorCode, type BlockErrorContext } from './block/errors.js';
export type * from './block/facets.js';
export { allowImplicitOpens, denyImplicitOpens, type GateRequest, type OpenGate } from './block/gate.js';
export { BlockGraph, type BackendOptions, type OpenOptions, type OpenSpec } from './block/graph.js';
export { BlockNode } from './block/node.js';
export { DriverRegistry } from './block/registry.js';
export { type ImageStream } from './block/stream.js';
export { blockStatus, chainStatus, type BlockStatus, type ChainStatus } from './block/status.js';
export { createRegistry } from './drivers.js';
