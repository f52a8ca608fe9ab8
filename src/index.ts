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

export { amendImage, type AmendControl } from './image/amend.js';
export { addBitmap, clearBitmap, enableBitmap, findBitmap, mergeBitmap, removeBitmap } from './image/bitmap.js';
export { checkImage, type CheckControl, type Repair } from './image/check.js';
export { commitImage, type CommitControl, type CommitOutcome } from './image/commit.js';
export { compareImages, CompareError, type CompareControl, type Difference } from './image/compare.js';
export { convertImages, type ConvertRequest, type NewImage } from './image/convert.js';
export type { CopyControl } from './image/copy.js';
export { createImage, type CreateImageRequest } from './image/create.js';
export { imageInfo, type NodeInfo } from './image/info.js';
export { mapImage, type MapEntry } from './image/map.js';
export { measureImage, measureOptions } from './image/measure.js';
export { copyDifferences, type RebaseControl } from './image/rebase.js';
export { resizeImage, type ResizeRequest } from './image/resize.js';
export { findSnapshot, snapshotsOf } from './image/snapshot.js';
export { streamImage, type StreamRequest } from './image/stream.js';
