/** Entries of a QED image's tables: little-endian host offsets. */
import { Place, type EntryCodec } from '../../block/appending-format.js';

const zeroCluster = 1;

/** The offset in an entry; more than 2^53 becomes a number that no place has. */
export function entryAt(view: DataView, at: number): number {
  return view.getUint32(at * 8 + 4, true) * 2 ** 32 + view.getUint32(at * 8, true);
}

export function setEntry(view: DataView, at: number, value: number): void {
  view.setUint32(at * 8, value % 2 ** 32, true);
  view.setUint32(at * 8 + 4, Math.floor(value / 2 ** 32), true);
}

/** Entries of L2 tables. */
export const clusterEntries: EntryCodec = {
  read(view, at) {
    const value = entryAt(view, at);
    return value === 0 ? Place.NONE : value === zeroCluster ? Place.ZERO : value;
  },
  write(view, at, place) {
    setEntry(view, at, place === Place.NONE ? 0 : place === Place.ZERO ? zeroCluster : place);
  },
};
