/** What the JavaScript engine does beside running the program. */

/**
 * Leaves the other processors to those that move data: functions run some milliseconds, rather than half of one, before they are
 * optimised, and young garbage is collected by this thread alone. For a process that lives for seconds, optimising a hundred
 * functions costs more than it saves, and there is little garbage to share. Does nothing with engines that may not know the settings.
 */
export function keepToOneThread(): void {
  if (!process.versions.v8.startsWith('11.')) return;
  const { setFlagsFromString } = process.getBuiltinModule('node:v8');
  setFlagsFromString('--interrupt-budget=1000000');
  setFlagsFromString('--no-parallel-scavenge');
}

/**
 * For a process that keeps many small tables: the room for young objects is not enlarged when many of them live on, as tables do.
 * Otherwise there would be as much garbage as there are tables. Costs some time where requests wait. Does nothing elsewhere than in Node.
 */
export function keepYoungGarbageSmall(): void {
  if (typeof process === 'undefined' || !process.versions?.v8?.startsWith('11.')) return;
  process.getBuiltinModule('node:v8').setFlagsFromString('--semi-space-growth-factor=1');
}
