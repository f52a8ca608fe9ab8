import { describe, it } from 'vitest';
import { allDrivers } from '../../src/drivers.js';
import { conformanceCases } from '../../src/testing/conformance.js';

const size = 1 << 20;

describe('memory', () => {
  for (const { name, run } of conformanceCases({ drivers: allDrivers, size, fresh: async (wrap) => wrap({ driver: 'memory', size }) })) it(name, run);
});
