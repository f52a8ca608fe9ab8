import { describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../block/child.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { memory } from '../../protocol/memory/index.js';
import { conformanceCases } from '../../testing/conformance.js';
import { parseConfig, type Rules } from './config.js';
import { createRegistry } from '../../drivers.js';
import { blkdebug } from './index.js';
import { DebugScript } from './script.js';

const rulesOf = (text: string): Rules => {
  const rules: Rules = { inject: [], state: [] };
  parseConfig(text, rules);
  return rules;
};
const scriptOf = (text: string): DebugScript => new DebugScript(rulesOf(text));
const fails = (script: DebugScript, type: Parameters<DebugScript['check']>[0] = 'write', offset = 0, length = 512): number | undefined =>
  script.check(type, offset, length)?.error.errno;

describe('rules', () => {
  it('arm at their event and stay armed', () => {
    const script = scriptOf('[inject-error]\nevent = "l2_update"\nerrno = "28"\n');
    expect(fails(script)).toBeUndefined();
    void script.event('l2_load');
    expect(fails(script)).toBeUndefined();
    void script.event('l2_update');
    expect(fails(script)).toBe(28);
    expect(fails(script)).toBe(28);
  });

  it('fail once with once, and not again at the next event', () => {
    const script = scriptOf('[inject-error]\nevent = "pwritev"\nonce = "on"\n');
    void script.event('pwritev');
    expect(fails(script)).toBe(5);
    expect(fails(script)).toBeUndefined();
    void script.event('pwritev');
    expect(fails(script)).toBeUndefined();
  });

  it('give way to those another event arms', () => {
    const script = scriptOf('[inject-error]\nevent = "l2_load"\nerrno = "1"\n[inject-error]\nevent = "l2_update"\nerrno = "2"\niotype = "flush"\n');
    void script.event('l2_load');
    void script.event('l2_update');
    expect(fails(script)).toBeUndefined();
    expect(fails(script, 'flush', 0, 0)).toBe(2);
  });

  it('name a sector and a kind of request; block status only when named', () => {
    const script = scriptOf('[inject-error]\nevent = "none"\nsector = "3"\n');
    expect(fails(script, 'write', 0, 1536)).toBeUndefined();
    expect(fails(script, 'write', 0, 1537)).toBe(5);
    expect(fails(script, 'read', 1536, 1)).toBe(5);
    expect(fails(script, 'read', 1537, 4096)).toBeUndefined();
    expect(fails(script, 'block-status', 0, 4096)).toBeUndefined();
    expect(fails(scriptOf('[inject-error]\nevent = "none"\niotype = "block-status"\n'), 'block-status')).toBe(5);
  });

  it('follow states, which change after all rules of an event were weighed', () => {
    const script = scriptOf(['[set-state]', 'state = "1"', 'event = "write_aio"', 'new_state = "2"',
      '[inject-error]', 'event = "write_aio"', 'errno = "5"', 'state = "2"'].join('\n'));
    void script.event('write_aio');
    expect(fails(script)).toBeUndefined();
    void script.event('write_aio');
    expect(fails(script)).toBe(5);
  });

  it.each([
    ['[foo]\n', "There is no option group 'foo'"], ['x', 'no group defined'], ['[inject-error]\nfoo = "1"\n', "Invalid parameter 'foo'"],
    ['[inject-error]\nevent = "foo"\n', 'invalid parameter value: foo'], ['[inject-error]\nerrno = "5"\n', 'Missing event name for rule'],
    ['[inject-error]\nevent = pwritev\n', 'invalid parameter value: '], ['[inject-error]\nevent = "pwritev"\nstate = "x"\n', "Parameter 'state' expects a number"],
    ['[inject-error]\n event="pwritev"\n', "Invalid parameter 'event=\"pwritev\"'"], ['[inject-error]\nevent = "pwritev"\nonce = "maybe"\n', "Parameter 'once' expects 'on' or 'off'"],
  ])('refuse %j', (text, message) => expect(() => rulesOf(text)).toThrow(message));

  it('allow comments, blank lines and section names', () => {
    expect(rulesOf('# nothing\n\n[set-state "a"]\nevent = "none"\nnew_state = "4"\n').state).toEqual([{ event: 'none', state: 0, newState: 4 }]);
  });
});

const graphOf = (): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([memory, blkdebug]), gate: () => true });
const open = (graph: BlockGraph, options: Record<string, unknown> = {}): Promise<BlockBackend> =>
  graph.openBackend({ driver: 'blkdebug', image: { driver: 'memory', size: 1 << 20 }, ...options }, { discard: 'unmap' });

describe('blkdebug in conformance', () => {
  for (const { name, run } of conformanceCases({
    drivers: [memory, blkdebug], size: 1 << 20, fresh: (wrap) => Promise.resolve({ driver: 'blkdebug', image: wrap({ driver: 'memory', size: 1 << 20 }) }),
  })) it(name, run);
});

describe('blkdebug', () => {
  it('holds one request at a breakpoint until it is resumed', async () => {
    await using graph = graphOf();
    const disk = await open(graph);
    const debug = disk.facet('blkdebug')!;
    const lines: string[] = [];
    debug.breakpoint('pwritev', 'A', (line) => lines.push(line));
    let done = false;
    const held = Promise.resolve(disk.write(0, new Uint8Array(512).fill(1))).then(() => { done = true; });
    await debug.whenSuspended('A');
    expect(debug.isSuspended('A')).toBe(true);
    await disk.write(512, new Uint8Array(512).fill(2));
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(done).toBe(false);
    debug.resume('A');
    await held;
    expect(lines).toEqual(["blkdebug: Suspended request 'A'", "blkdebug: Resuming request 'A'"]);
    expect(() => debug.resume('A')).toThrow('No such file or directory');
    expect(() => debug.removeBreakpoint('A')).toThrow('No such file or directory');
    expect(() => debug.breakpoint('foo', 'A')).toThrow('No such file or directory');
  });

  it('lets held requests go when the breakpoint is removed, though it complains that there is none', async () => {
    await using graph = graphOf();
    const disk = await open(graph);
    const debug = disk.facet('blkdebug')!;
    debug.breakpoint('pwritev', 'A');
    const held = disk.write(0, new Uint8Array(512));
    expect(() => debug.removeBreakpoint('A')).toThrow('No such file or directory');
    await held;
  });

  it('fails reads around an unaligned write', async () => {
    await using graph = graphOf();
    const disk = await open(graph, { align: 4096, 'inject-error': [{ event: 'pwritev_rmw_after_head', errno: 28, once: true }] });
    await disk.write(0, new Uint8Array(4096));
    await expect((async () => disk.write(10, new Uint8Array(20)))()).rejects.toMatchObject({ errno: 28 });
  });

  it('fails no flush of what did not change', async () => {
    await using graph = graphOf();
    const disk = await open(graph, { 'inject-error': [{ event: 'none', iotype: 'flush', once: true }] });
    await disk.flush();
    await disk.write(0, new Uint8Array(512));
    await expect(Promise.resolve().then(() => disk.flush())).rejects.toThrow('Input/output error');
    await disk.flush();
  });

  it('refuses zeroes below its granularity, which then are written as data', async () => {
    await using graph = graphOf();
    const disk = await open(graph, { 'opt-write-zero': 65536, 'inject-error': [{ event: 'none', iotype: 'write' }] });
    await disk.writeZeroes(65536, 65536);
    await expect((async () => disk.writeZeroes(512, 512))()).rejects.toThrow('Input/output error');
  });

  it.each([
    [{ align: 3 }, 'align 3'], [{ align: '2G' }, 'align 2147483648'], [{ 'max-transfer': 512, align: '1k' }, 'max-transfer 512'],
    [{ 'max-write-zero': 512, 'opt-write-zero': 1024 }, 'max-write-zero 512'], [{ 'opt-discard': 1, align: 512 }, 'opt-discard 1'],
  ])('refuses limits %j', async (options, what) => {
    await using graph = graphOf();
    await expect(open(graph, options)).rejects.toThrow(`Cannot meet constraints with ${what}`);
  });

  it.each([
    ['blkdebug:c:t.raw', { config: 'c', image: { filename: 't.raw' } }], ['blkdebug::a:b', { image: { filename: 'a:b' } }], ['t.raw', { image: { filename: 't.raw' } }],
  ])('takes %s apart', (filename, options) => expect(blkdebug.parseFilename!(filename)).toEqual(options));
  it('hands a name beside options to the layer they speak of', () => {
    const graph = new BlockGraph({ drivers: createRegistry() });
    expect(graph.withFilename('t.qcow2', { driver: 'blkdebug', config: 'c', 'image.driver': 'qcow2' })).toEqual(
      { driver: 'blkdebug', config: 'c', image: { driver: 'qcow2', file: expect.objectContaining({ filename: 't.qcow2' }) as unknown } });
  });
  it('wants both parts', () => expect(() => blkdebug.parseFilename!('blkdebug:t.raw')).toThrow('blkdebug requires both config file and image path'));
});
