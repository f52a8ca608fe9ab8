import { beforeEach, expect, it, vi } from 'vitest';
import { clockMs } from '../../platform/clock.js';
import { Pace } from './pace.js';

vi.mock('../../platform/clock.js', () => ({ clockMs: vi.fn() }));

let now = 0;
let waits = 0;
let pace: Pace;
beforeEach(() => {
  now = 100_000;
  vi.mocked(clockMs).mockImplementation(() => now);
  pace = new Pace(() => waits);
});

/** One call that takes so long; false if it is to be made elsewhere. */
function call(ms: number, waited: boolean, bytes = 4096): boolean {
  const start = pace.begin();
  if (start === undefined) return false;
  now += ms;
  if (waited) waits++;
  pace.end(start, bytes);
  return true;
}

it('stays while calls are quick, or slow only because of interruptions', () => {
  for (let index = 0; index < 100; index++) expect(call(index % 2 === 0 ? 0.01 : 20, false)).toBe(true);
});

it('steps aside after a second wait, and returns', () => {
  expect(call(20, true)).toBe(true);
  expect(call(20, true)).toBe(true);
  expect(call(0.01, false)).toBe(false);
  now += 51;
  expect(call(0.01, false)).toBe(true);
  expect(call(0.01, false)).toBe(true);
});

it('stays away longer each time the disk is slow again, up to a limit', () => {
  call(20, true);
  const away: number[] = [];
  for (let index = 0; index < 10; index++) {
    expect(call(20, true)).toBe(true);
    const since = now;
    while (!call(0, false)) now += 10;
    away.push(now - since);
  }
  expect(away.slice(0, 4)).toEqual([50, 100, 200, 400]);
  expect(Math.max(...away)).toBe(5000);
});

it('forgets a wait that is long past', () => {
  call(20, true);
  now += 2000;
  expect(call(20, true)).toBe(true);
  expect(call(0.01, false)).toBe(true);
});

it('allows large requests the time to copy them', () => {
  for (let index = 0; index < 10; index++) expect(call(9, true, 4 << 20)).toBe(true);
});
