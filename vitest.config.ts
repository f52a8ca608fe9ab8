import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'test/**/*.test.ts'], exclude: ['test/full/**', 'node_modules/**'], testTimeout: 240_000, hookTimeout: 240_000,
    globalSetup: ['test/support/build-tools.ts'], setupFiles: ['test/support/setup.ts'], expect: { poll: { timeout: 120_000 } },
    // threads that collect garbage would take time from the other worker
    pool: 'forks', maxWorkers: 2, execArgv: ['--single-threaded-gc'],
  },
});
