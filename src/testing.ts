/** Test equipment for authors of drivers. */
export { conformanceCases, type ConformanceCase, type ConformanceTarget } from './testing/conformance.js';
export { passthrough } from './testing/passthrough.js';
export { crashStates, GuestHistory, type CrashState } from './testing/power-cut.js';
export { seededRandom } from './testing/random.js';
export { Recording, recorderDriver, type RecordedChange, type RecordedFlush } from './testing/recorder.js';
