import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { BlockError, Errno } from '../../block/errors.js';
import { parseConfiguration } from './config.js';
import { ConnectParameters } from './connect-params.js';
import { CredType, SpecType, TRANSPORT_MODES } from './constants.js';
import { errorCode, errorSymbol, getErrorText, VixErrorCode } from './error-codes.js';
import { errorNumber, toVixError, type VixError } from './errors.js';
import { chainPolicy } from './policy.js';
import { controlled } from './progress.js';
import { exportNames, nbdServer, parseTransportModes, usableModes } from './transports.js';
import { formatVmxSpec, machineName, parseVmxSpec } from './vmx-spec.js';

const invalid = expect.objectContaining({ symbol: 'VIX_E_INVALID_ARG', code: 3 }) as VixError;

function failure(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe('error codes', () => {
  it('have the numbers of the header file', () => {
    const { VIX_OK, VIX_E_FILE_ALREADY_LOCKED, VIX_E_DISK_CID_MISMATCH, VIX_E_DISK_ATTACH_ROOTLINK, VIX_E_CRYPTO_KEYSAFE_LOCATOR, VIX_ASYNC } = VixErrorCode;
    expect([VIX_OK, VIX_E_FILE_ALREADY_LOCKED, VIX_E_DISK_CID_MISMATCH, VIX_E_DISK_ATTACH_ROOTLINK, VIX_E_CRYPTO_KEYSAFE_LOCATOR, VIX_ASYNC])
      .toEqual([0, 15, 16008, 16069, 17012, 25000]);
    expect(new Set(Object.values(VixErrorCode)).size).toBe(Object.keys(VixErrorCode).length);
  });

  it('stand in the low 16 bits', () => {
    expect(errorCode(0x1234_0000_3e88n)).toBe(16008);
    expect(errorSymbol(0x1234_0000_3e88n)).toBe('VIX_E_DISK_CID_MISMATCH');
    expect(getErrorText(16008)).toContain('content IDs');
    expect(getErrorText(59999)).toBe('Unknown error 59999');
  });

  it('stand for those of the system and of the engine', () => {
    const symbol = (error: unknown): string => (toVixError(error) as VixError).symbol;
    expect([Errno.ENOENT, Errno.EACCES, Errno.ENOSPC, Errno.EROFS, Errno.EBUSY].map((errno) => errorNumber(Object.assign(new Error('x'), { errno: -errno }))))
      .toEqual([4, 13, 8, 11, 15]);
    expect(symbol(new BlockError('PERMISSION_CONFLICT', 'x'))).toBe('VIX_E_FILE_ALREADY_LOCKED');
    expect(symbol(new BlockError('IO_ERROR', 'x', { errno: Errno.ENOSPC }))).toBe('VIX_E_DISK_FULL');
    expect(symbol(new BlockError('IO_ERROR', 'x', { errno: Errno.EIO }))).toBe('VIX_E_FILE_ERROR');
    const mistake = new TypeError('x');
    expect(toVixError(mistake)).toBe(mistake);
    expect(errorNumber(mistake)).toBe(1);
  });
});

describe('the configuration', () => {
  it('keeps what it does not know, and warns of it', () => {
    const warnings: string[] = [];
    const settings = parseConfiguration('# all\ntmpDirectory="/var/tmp"\r\nvixDiskLib.nfcAio.Session.BufCount = 4 # four\n\nvixDiskLib.disklib.EnableCache=1\n', (line) => warnings.push(line));
    expect([...settings]).toEqual([['tmpDirectory', '/var/tmp'], ['vixDiskLib.nfcAio.Session.BufCount', '4'], ['vixDiskLib.disklib.EnableCache', '1']]);
    expect(warnings).toEqual([expect.stringContaining('vixDiskLib.disklib.EnableCache')]);
  });

  it.each(['nonsense', '=1', 'vixDiskLib.transport.LogLevel=7', 'vixDiskLib.nfc.LogLevel=high'])('refuses %s', (line) => {
    expect(failure(() => parseConfiguration(line))).toEqual(invalid);
  });
});

describe('vmxSpec', () => {
  it.each(['moref=vm-16', 'moref=2', 'My Folder/VM.vmx?dcPath=Path/To/Datacenter&dsName=storage1'])('%s there and back', (text) => {
    expect(formatVmxSpec(parseVmxSpec(text))).toBe(text);
  });
  it('names a machine', () => {
    expect(machineName(parseVmxSpec('moref=vm-16'))).toBe('vm-16');
    expect(machineName(parseVmxSpec('web/web.vmx?dcPath=dc&dsName=s'))).toBe('web');
  });
  it.each(['', 'vm-16', 'moref=', 'moref=a b', 'web.vmx', 'web.vmx?dcPath=x', 'web?dcPath=x&dsName=y'])('refuses "%s"', (text) => {
    expect(failure(() => parseVmxSpec(text))).toEqual(invalid);
  });
});

describe('parameters of a connection', () => {
  const thumbPrint = Array.from({ length: 20 }, () => 'ab').join(':');
  it('hide their secrets', () => {
    const params = new ConnectParameters({ serverName: 'host', creds: { userName: 'root', password: 'hunter2' } });
    for (const text of [JSON.stringify(params), inspect(params), inspect({ params }), String(params)]) expect(text).not.toContain('hunter2');
    expect(params.creds).toEqual({ userName: 'root', password: 'hunter2' });
  });
  it('are checked', () => {
    expect(new ConnectParameters({ thumbPrint }).thumbPrint).toBe(thumbPrint.toUpperCase());
    for (const bad of [{ thumbPrint: 'ab:cd' }, { port: 65536 }, { vmxSpec: 'x' }, { specType: SpecType.VSTORAGE_OBJECT }, { credType: CredType.SESSIONID, creds: { userName: 'a', password: 'b' } }]) {
      expect(failure(() => new ConnectParameters(bad)), JSON.stringify(bad)).toEqual(invalid);
    }
    expect(failure(() => new ConnectParameters({ serverName: 'no host' }))).toMatchObject({ code: 18002 });
  });
});

describe('transports', () => {
  it('are named and chosen', () => {
    expect(parseTransportModes(null)).toBe(TRANSPORT_MODES);
    expect(parseTransportModes('san:nbd:file')).toEqual(['san', 'nbd', 'file']);
    expect(failure(() => parseTransportModes('san:scsi'))).toEqual(invalid);
    expect(usableModes(parseTransportModes('san:nbd:file'), true)).toEqual(['nbd']);
    expect(failure(() => usableModes(['san', 'hotadd'], true))).toMatchObject({ symbol: 'VIX_E_NOT_SUPPORTED' });
    expect(failure(() => usableModes(['nbd'], false))).toEqual(invalid);
  });

  it('find the export', () => {
    const machine = new ConnectParameters({ serverName: 'h', vmxSpec: 'moref=vm-16' });
    expect(exportNames(machine, '[store] web/web.vmdk', undefined)).toEqual(['vm-16/[store] web/web.vmdk', '[store] web/web.vmdk', 'store/web/web.vmdk']);
    expect(exportNames(machine, 'disk', 'snapshot-3')).toEqual(['vm-16@snapshot-3/disk', 'disk@snapshot-3']);
    expect(exportNames(new ConnectParameters({ serverName: 'h', specType: SpecType.VSTORAGE_OBJECT, vStorageObjSpec: { id: 'fcd', datastoreMoRef: 'd', ssId: 's' } }), '', undefined))
      .toEqual(['fcd@s']);
  });

  it('find the server', () => {
    expect(nbdServer(new ConnectParameters({ serverName: 'h' }))).toEqual({ type: 'inet', host: 'h', port: '10809' });
    expect(nbdServer(new ConnectParameters({ serverName: '[::1]', port: 443, nfcHostPort: 902 }))).toEqual({ type: 'inet', host: '::1', port: '902' });
    expect(nbdServer(new ConnectParameters({ serverName: '/run/disks' }))).toEqual({ type: 'unix', path: '/run/disks' });
  });
});

describe('the policy', () => {
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-vix-policy-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, 'vm'));
  mkdirSync(join(folder, 'templates'));
  for (const name of ['vm/a.vmdk', 'templates/base.vmdk', 'secret']) writeFileSync(join(folder, name), '');
  symlinkSync('../secret', join(folder, 'vm/link.vmdk'));
  const from = join(folder, 'vm/child.vmdk');
  const ask = (policy: ReturnType<typeof chainPolicy>, name: string): unknown => policy({ kind: 'backing', filename: join(folder, name), format: 'vmdk', from });

  it('lets disks lead to files beside them, and nowhere else', () => {
    const policy = chainPolicy([]);
    expect(ask(policy, 'vm/a.vmdk')).toBe(true);
    expect(ask(policy, 'vm/missing.vmdk')).toBe(true);
    expect(ask(policy, 'vm/../secret')).not.toBe(true);
    expect(ask(policy, 'vm/link.vmdk')).not.toBe(true);
    expect(policy({ kind: 'extent', filename: '/dev/null', from: '/dev/x' })).not.toBe(true);
    expect(policy({ kind: 'backing', filename: 'nbd://host', from })).not.toBe(true);
    expect(policy({ kind: 'probe', filename: from })).toBe(true);
    expect(policy({ kind: 'probe', filename: join(folder, 'vm/a.vmdk'), from })).not.toBe(true);
  });

  it('can be widened', () => {
    expect(ask(chainPolicy([]), 'templates/base.vmdk')).not.toBe(true);
    expect(ask(chainPolicy([join(folder, 'templates')]), 'templates/base.vmdk')).toBe(true);
    expect(ask(chainPolicy([], ({ filename }) => filename.endsWith('base.vmdk')), 'templates/base.vmdk')).toBe(true);
  });
});

describe('long operations', () => {
  it('tell of every percent once, and of the end', async () => {
    const percents: number[] = [];
    await controlled({ onProgress: ({ percent }) => percents.push(percent) }, async ({ progress }) => {
      for (const done of [0, 1, 50, 50, 40, 1000, 1000]) progress(done, 1000);
    });
    expect(percents).toEqual([0, 5, 99, 100]);
  });

  it('end with the error of whom they tell', async () => {
    const mine = new Error('mine');
    const run = controlled({ onProgress: () => { throw mine; } }, async ({ progress, signal }) => {
      progress(1, 2);
      expect(signal.aborted).toBe(true);
      throw new Error('the work noticed');
    });
    await expect(run).rejects.toBe(mine);
  });

  it('can be cancelled', async () => {
    const control = new AbortController();
    const run = controlled({ signal: control.signal }, ({ signal }) => new Promise((_, reject) => {
      signal.addEventListener('abort', () => reject(new Error('stopped')));
      control.abort();
    }));
    await expect(run).rejects.toMatchObject({ symbol: 'VIX_E_CANCELLED', code: 10 });
    await expect(controlled({ signal: control.signal }, async () => 1)).rejects.toMatchObject({ code: 10 });
  });
});
