/** How fast a disk is read and written through VixDiskLib. */
import {
  VixDiskLib_Flush, VixDiskLib_Read, VixDiskLib_ReadAsync, VixDiskLib_Wait, VixDiskLib_Write, VixDiskLib_WriteAsync,
} from '../../vixdisklib/c-api.js';
import { clockMs } from '../../../platform/clock.js';
import { SECTOR_SIZE } from '../../vixdisklib/constants.js';
import type { Disk } from '../../vixdisklib/disk.js';
import { VixErrorCode } from '../../vixdisklib/error-codes.js';
import { CliError } from '../output.js';

const depth = 32;

export interface Figures { readonly sectors: number; readonly seconds: number }

/** One piece after the other. */
export async function benchSynchronous(disk: Disk, piece: number, value: number | undefined): Promise<Figures> {
  const buffer = new Uint8Array(piece * SECTOR_SIZE).fill(value ?? 0);
  return measured(disk, piece, value !== undefined, async (start, count) => {
    if (value === undefined) await VixDiskLib_Read(disk, start, count, buffer);
    else await VixDiskLib_Write(disk, start, count, buffer);
  });
}

/** As many pieces under way as programs written for VDDK have. */
export async function benchAsynchronous(disk: Disk, piece: number, value: number | undefined): Promise<Figures> {
  const free: Uint8Array[] = Array.from({ length: depth }, () => new Uint8Array(piece * SECTOR_SIZE).fill(value ?? 0));
  let wake = (): void => undefined;
  let failure = VixErrorCode.VIX_OK as number;
  const completed = (buffer: unknown, result: number): void => {
    if (result !== VixErrorCode.VIX_OK) failure = result;
    free.push(buffer as Uint8Array);
    wake();
  };
  const figures = await measured(disk, piece, value !== undefined, async (start, count) => {
    if (free.length === 0) await new Promise<void>((resolve) => { wake = resolve; });
    const buffer = free.pop()!;
    if (value === undefined) VixDiskLib_ReadAsync(disk, start, count, buffer, completed, buffer);
    else VixDiskLib_WriteAsync(disk, start, count, buffer, completed, buffer);
  }, () => VixDiskLib_Wait(disk));
  if (failure !== VixErrorCode.VIX_OK) throw new CliError(`A request failed with error ${failure}`);
  return figures;
}

async function measured(disk: Disk, piece: number, writes: boolean, transfer: (start: number, count: number) => Promise<void>, settle?: () => Promise<void>): Promise<Figures> {
  const sectors = disk.capacity;
  const begin = clockMs();
  for (let start = 0; start < sectors; start += piece) await transfer(start, Math.min(piece, sectors - start));
  await settle?.();
  if (writes) await VixDiskLib_Flush(disk);
  return { sectors, seconds: (clockMs() - begin) / 1000 };
}
