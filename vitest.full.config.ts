import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: { include: ['test/full/**/*.test.ts'], globalSetup: ['test/support/build-tools.ts'], testTimeout: 4 * 3600_000, hookTimeout: 3600_000, pool: 'forks', maxWorkers: 2, passWithNoTests: true },
});
