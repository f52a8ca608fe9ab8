/** Counts of sectors as callers give them. */
import { SECTOR_SIZE } from './constants.js';
import { VixError } from './errors.js';

/** A count or a number of sectors. What comes back is a number: no disk here has 2^53 bytes. */
export type Sectors = number | bigint;

/** Bytes of so many sectors. @throws VixError VIX_E_INVALID_ARG */
export function toBytes(sectors: Sectors, what = 'a number of sectors'): number {
  const bytes = Number(sectors) * SECTOR_SIZE;
  if (Number.isSafeInteger(bytes) && bytes >= 0) return bytes;
  throw new VixError('VIX_E_INVALID_ARG', `${what} is ${sectors}`);
}

/** A place on a disk, in bytes. @throws VixError VIX_E_INVALID_ARG */
export function toPlace(bytes: number | bigint, what: string): number {
  const place = Number(bytes);
  if (Number.isSafeInteger(place) && place >= 0) return place;
  throw new VixError('VIX_E_INVALID_ARG', `${what} is ${bytes}`);
}

/** Whole sectors of so many bytes. */
export function toSectors(bytes: number): number {
  return Math.floor(bytes / SECTOR_SIZE);
}
