/** VixDiskLib by the names of its C functions: one library per process, handles, callbacks. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import * as vix from '../../src/face/vixdisklib/index.js';
import { AdapterType, DiskType, OpenFlags, SECTOR_SIZE, VixErrorCode, type CreateParams, type VixError } from '../../src/face/vixdisklib/index.js';
import { randomBytes } from '../support/seed.js';
import { failure } from '../support/vix-failure.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-vix-c-'));
let counter = 0;
const path = (suffix = 'vmdk'): string => join(folder, `${counter++}.${suffix}`);
const capacity = 8192;
const sparse: CreateParams = { diskType: DiskType.MONOLITHIC_SPARSE, adapterType: AdapterType.SCSI_LSILOGIC, capacity };
afterAll(() => rmSync(folder, { recursive: true }));

describe('by the names of C', () => {
  it('from InitEx to Exit', async () => {
    await expect(vix.VixDiskLib_Connect(null)).rejects.toMatchObject({ code: 16001 });
    const config = path('conf');
    writeFileSync(config, `tmpDirectory=${folder}\nunknown.key=1\n`);
    const warnings: string[] = [];
    await vix.VixDiskLib_InitEx(7, 0, null, (line) => warnings.push(line), null, '/opt/vddk', config);
    try {
      expect(warnings).toHaveLength(1);
      await expect(vix.VixDiskLib_Init(7, 0, null, null, null)).rejects.toMatchObject({ symbol: 'VIX_E_DISK_SUBSYSTEM_INIT_FAIL' });
      expect(await vix.VixDiskLib_ListTransportModes()).toBe('file:san:hotadd:nbdssl:nbd');
      const connectParams = vix.VixDiskLib_AllocateConnectParams();
      connectParams.vmxSpec = 'moref=vm-3';
      await vix.VixDiskLib_PrepareForAccess(connectParams, 'backup');
      await expect(vix.VixDiskLib_PrepareForAccess(connectParams, 'x'.repeat(51))).rejects.toMatchObject({ code: 3 });
      const connection = await vix.VixDiskLib_ConnectEx(connectParams, false, null, 'file');
      expect((await vix.VixDiskLib_GetConnectParams(connection))?.vmxSpec).toBe('moref=vm-3');
      const file = path();
      const percents: number[] = [];
      await vix.VixDiskLib_Create(connection, file, sparse, (_data, percent) => void percents.push(percent));
      expect(percents.at(-1)).toBe(100);
      const handle = await vix.VixDiskLib_Open(connection, file, 0);
      expect(vix.VixDiskLib_GetTransportMode(handle)).toBe('file');
      const buffer = new Uint8Array(randomBytes(4 * SECTOR_SIZE));
      await vix.VixDiskLib_Write(handle, 8, 4, buffer);
      await vix.VixDiskLib_Flush(handle);
      const back = new Uint8Array(4 * SECTOR_SIZE);
      const results: unknown[] = [];
      expect(vix.VixDiskLib_ReadAsync(handle, 8, 4, back, (data, result) => results.push([data, result]), 'mine')).toBe(VixErrorCode.VIX_ASYNC);
      expect(results).toEqual([]);
      await expect(vix.VixDiskLib_Read(handle, 0, 1, back)).rejects.toMatchObject({ symbol: 'VIX_E_ASYNC_MIXEDMODE_UNSUPPORTED', code: 26000 });
      await vix.VixDiskLib_Wait(handle);
      expect(results).toEqual([['mine', 0]]);
      expect(back).toEqual(buffer);
      const reading = vix.VixDiskLib_Read(handle, 8, 4, back);
      expect(() => vix.VixDiskLib_WriteAsync(handle, 0, 4, buffer, () => undefined)).toThrow(expect.objectContaining({ code: 26000 }) as VixError);
      await reading;
      await expect(vix.VixDiskLib_Read(handle, 0, 5, back)).rejects.toMatchObject({ symbol: 'VIX_E_BUFFER_TOOSMALL' });
      expect(await vix.VixDiskLib_QueryAllocatedBlocks(handle, 0, capacity, 128)).toEqual([{ offset: 0, length: 128 }]);
      await vix.VixDiskLib_WriteMetadata(handle, 'key', 'value');
      expect(await vix.VixDiskLib_ReadMetadata(handle, 'key')).toBe('value');
      expect(await vix.VixDiskLib_GetMetadataKeys(handle)).toContain('key');
      expect((await vix.VixDiskLib_GetInfo(handle)).numLinks).toBe(1);
      expect(await vix.VixDiskLib_SpaceNeededForClone(handle, DiskType.UNKNOWN)).toBeGreaterThan(65536);
      await vix.VixDiskLib_Close(handle);
      await expect(vix.VixDiskLib_Close(handle)).rejects.toMatchObject({ symbol: 'VIX_E_INVALID_HANDLE', code: 1000 });
      await expect(vix.VixDiskLib_Clone(connection, path(), connection, file, null, () => false, null, false)).rejects.toMatchObject({ symbol: 'VIX_E_CANCELLED' });
      const moved = path();
      await vix.VixDiskLib_Rename(file, moved);
      await vix.VixDiskLib_Grow(connection, moved, 2 * capacity, true);
      await vix.VixDiskLib_Unlink(connection, moved);
      expect(await vix.VixDiskLib_Cleanup(null)).toEqual({ numCleanedUp: 0, numRemaining: 0 });
      await vix.VixDiskLib_EndAccess(connectParams, 'backup');
      await vix.VixDiskLib_Disconnect(connection);
      await expect(vix.VixDiskLib_Open(connection, file, 0)).rejects.toMatchObject({ symbol: 'VIX_E_DISK_INVALID_CONNECTION', code: 16054 });
    } finally {
      await vix.VixDiskLib_Exit();
    }
    expect(vix.VixDiskLib_GetErrorText(16008, null)).toContain('content IDs');
  });

  it('chains, and the errors of calls', async () => {
    await vix.VixDiskLib_InitEx(8, 0, null, null, null, null, null);
    try {
      const connection = await vix.VixDiskLib_Connect(null);
      expect(await vix.VixDiskLib_GetConnectParams(connection)).toBeNull();
      const [file, child, other] = [path(), path(), path()];
      expect(await failure(() => vix.VixDiskLib_Open(null as unknown as typeof connection, file, 0))).toBe('VIX_E_DISK_INVALID_CONNECTION');
      await vix.VixDiskLib_Create(connection, file, { diskType: DiskType.SPLIT_SPARSE, adapterType: AdapterType.IDE, capacity: 2 ** 27 });
      const parent = await vix.VixDiskLib_Open(connection, file, 0);
      await vix.VixDiskLib_Write(parent, 0, 2, new Uint8Array(1024).fill(1));
      expect(await failure(() => vix.VixDiskLib_QueryAllocatedBlocks(parent, 0, 2 ** 27, 128))).toBe('VIX_E_INVALID_ARG');
      expect(await vix.VixDiskLib_QueryAllocatedBlocks(parent, 0, 2 ** 26, 128)).toEqual([{ offset: 0, length: 128 }]);
      const percents: number[] = [];
      await vix.VixDiskLib_Shrink(parent, (data, percent) => { percents.push(Number(data) + percent); }, 1000);
      await vix.VixDiskLib_Defragment(parent, null);
      expect(percents.at(-1)).toBe(1100);
      await vix.VixDiskLib_Close(parent);
      expect(await vix.VixDiskLib_CheckRepair(connection, file, true)).toMatchObject({ corruptions: 0 });
      const reading = await vix.VixDiskLib_Open(connection, file, OpenFlags.READ_ONLY);
      expect(() => vix.VixDiskLib_WriteAsync(reading, 0, 1, new Uint8Array(512), () => undefined)).toThrow(expect.objectContaining({ symbol: 'VIX_E_FILE_READ_ONLY' }) as Error);
      expect(await failure(() => vix.VixDiskLib_Write(reading, 0, 1, new Uint8Array(512)))).toBe('VIX_E_FILE_READ_ONLY');
      expect(await failure(() => vix.VixDiskLib_Read(reading, 2 ** 27, 1, new Uint8Array(512)))).toBe('VIX_E_DISK_OUTOFRANGE');
      await vix.VixDiskLib_CreateChild(reading, child, DiskType.MONOLITHIC_SPARSE, null);
      await vix.VixDiskLib_Clone(connection, other, connection, file, null, null, null, false);
      const lower = await vix.VixDiskLib_Open(connection, other, OpenFlags.READ_ONLY);
      const upper = await vix.VixDiskLib_Open(connection, child, OpenFlags.SINGLE_LINK);
      await vix.VixDiskLib_IsAttachPossible(lower, upper);
      await vix.VixDiskLib_Attach(lower, upper);
      expect(await failure(() => vix.VixDiskLib_GetInfo(lower))).toBe('VIX_E_INVALID_HANDLE');
      expect(() => vix.VixDiskLib_GetTransportMode(lower)).toThrow(expect.objectContaining({ code: 1000 }) as Error);
      expect((await vix.VixDiskLib_GetInfo(upper)).numLinks).toBe(2);
      const back = new Uint8Array(512);
      await vix.VixDiskLib_Read(upper, 1, 1, back);
      expect(back[0]).toBe(1);
      await vix.VixDiskLib_Disconnect(connection);
      expect(upper.isOpen).toBe(false);
    } finally {
      await vix.VixDiskLib_Exit();
    }
  });
});
