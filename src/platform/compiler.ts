/** How eagerly the JavaScript engine optimises. */

/**
 * Lets functions run some milliseconds, rather than half of one, before they are optimised: for a process that lives for a second and
 * whose processors have other work, optimising a hundred functions costs more than it saves. Does nothing with engines that may not
 * know the setting.
 */
export function optimiseLater(): void {
  if (!process.versions.v8.startsWith('11.')) return;
  const { setFlagsFromString } = process.getBuiltinModule('node:v8');
  setFlagsFromString('--interrupt-budget=1000000');
}
