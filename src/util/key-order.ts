/**
 * Member order of JSON as QEMU prints it: ascending hash bucket of the key, ties last inserted first.
 * Observed from qemu-img's and QMP's output.
 */
function bucket(key: string): number {
  const bytes = new TextEncoder().encode(key);
  let hash = Math.imul(0x238f13af, bytes.length);
  for (let i = 0; i < bytes.length; i++) hash = (hash + (bytes[i]! << ((5 * i) % 24))) | 0;
  return ((Math.imul(hash, 1103515243) + 12345) >>> 0) % 512;
}

/** Entries of an object in that order, undefined values left out. */
export function orderedEntries(object: Readonly<Record<string, unknown>>): [string, unknown][] {
  return Object.entries(object)
    .filter(([, value]) => value !== undefined)
    .map((entry, index) => ({ entry, index, bucket: bucket(entry[0]) }))
    .sort((a, b) => a.bucket - b.bucket || b.index - a.index)
    .map(({ entry }) => entry);
}
