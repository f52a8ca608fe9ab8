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
