/** The window of dictionary coders is what they have written so far. */

/** Copies `length` bytes from `distance` back to `at`; what is copied may reach into the copy. @throws Error where that lies outside */
export function copyBack(target: Uint8Array, at: number, distance: number, length: number): void {
  if (distance < 1 || distance > at || at + length > target.length) throw new Error('a reference leads outside');
  if (distance >= length) target.copyWithin(at, at - distance, at - distance + length);
  else for (let end = at + length, from = at - distance; at < end; at++, from++) target[at] = target[from]!;
}
