import { afterEach, describe, expect, it, vi } from 'vitest';
import type { OpenContext } from '../../block/driver.js';
import { nullAio, nullCo, type NullOptions } from './index.js';

const open = async (options: NullOptions) => nullCo.open({ options } as OpenContext<NullOptions>);

describe('null', () => {
  afterEach(() => { vi.useRealTimers(); });

  it('is 1 GiB of zeroes that keeps nothing', async () => {
    const ops = await open({});
    expect(ops.size).toBe(2 ** 30);
    await ops.write(0, new Uint8Array(16).fill(1), 0);
    const target = new Uint8Array(16).fill(0xee);
    expect(ops.read(0, target, 0)).toBeUndefined();
    expect([...target]).toEqual(new Array(16).fill(0));
  });

  it('tells that it reads as zero only when asked to', async () => {
    expect(await (await open({})).status(0, 10, true)).toEqual({ kind: 'data', length: 10, hole: true });
    expect(await (await open({ 'read-zeroes': true })).status(0, 10, true)).toEqual({ kind: 'zero', length: 10, allocated: true });
  });

  it('waits for latency-ns', async () => {
    const ops = await open({ 'latency-ns': 20_000_000 });
    vi.useFakeTimers();
    let done = false;
    void Promise.resolve(ops.read(0, new Uint8Array(1), 0)).then(() => { done = true; });
    await vi.advanceTimersByTimeAsync(19);
    expect(done).toBe(false);
    await vi.advanceTimersByTimeAsync(1);
    expect(done).toBe(true);
    await expect(open({ 'latency-ns': -1 })).rejects.toThrow('latency-ns is invalid');
  });

  it('has one filename per driver, which reopens it only without options', async () => {
    expect(nullAio.parseFilename?.('null-aio://')).toEqual({});
    expect(() => nullCo.parseFilename?.('null-co://x')).toThrow("The only allowed filename for this driver is 'null-co://'");
    expect((await open({})).filename()).toBe('null-co://');
    expect((await open({ size: 1 })).filename()).toBeUndefined();
  });
});
