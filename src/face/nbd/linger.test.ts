import { availableParallelism } from 'node:os';
import { describe, expect, it } from 'vitest';
import { LingerPolicy } from './linger.js';

describe.skipIf(availableParallelism() < 2)('lingering at the socket', () => {
  const waits = (policy: LingerPolicy, served = 1): boolean => policy.begin(served).patienceNs > 0n;

  it('is for a lone client that sends one request at a time', () => {
    let clients = 1;
    const policy = new LingerPolicy(() => clients);
    expect(waits(policy)).toBe(true);
    expect(waits(policy, 2)).toBe(false);
    clients = 2;
    expect(waits(policy)).toBe(false);
  });

  it('becomes rare where it does not pay, and common again where it does', () => {
    const policy = new LingerPolicy(() => 1);
    let tries = 0;
    for (let turn = 0; turn < 10_000; turn++) {
      if (!waits(policy)) continue;
      tries++;
      policy.miss();
    }
    expect(tries).toBeLessThan(60);
    while (!waits(policy)) policy.hit();
    policy.hit();
    expect(waits(policy)).toBe(true);
  });
});
