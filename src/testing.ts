/** Test equipment for authors of drivers. */
export { conformanceCases, type ConformanceCase, type ConformanceTarget } from './testing/conformance.js';
export { passthrough } from './testing/passthrough.js';
