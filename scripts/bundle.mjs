// Bundles the command line for quick start-up: one CommonJS-free ESM entry, split so that each verb loads only what it needs.
import { build } from 'esbuild';
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: { outdir: { type: 'string', default: 'dist/cli' } } });
await build({
  entryPoints: { main: 'src/face/cli/main.ts' },
  outdir: values.outdir,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  minifyWhitespace: true,
  minifySyntax: true,
  external: ['koffi', '@bokuweb/zstd-wasm'],
  logLevel: 'warning',
});
