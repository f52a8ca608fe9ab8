// Bundles the command line for quick start-up: one script, and V8's compiled form of what common calls run (main.cache), which
// saves more than half of the time a call takes. Another Node version refuses the cache and compiles as usual.
import { build } from 'esbuild';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: { outdir: { type: 'string', default: 'dist/cli' } } });
const outdir = resolve(values.outdir);
await build({
  entryPoints: { main: 'src/face/cli/main.ts' },
  outdir,
  outExtension: { '.js': '.cjs' },
  bundle: true,
  format: 'cjs',
  platform: 'node',
  target: 'node20',
  minify: true,
  // one function expression: what bin/start.cjs would else put around it costs a copy of the whole text at each start
  banner: { js: '(function (exports, require, module, __filename, __dirname) {const bundleUrl=require("node:url").pathToFileURL(__filename).href;' },
  footer: { js: '})' },
  define: { 'import.meta.url': 'bundleUrl' },
  external: ['koffi', '@bokuweb/zstd-wasm', 'hash-wasm'],
  supported: { 'dynamic-import': false },
  logLevel: 'warning',
});
const warm = spawnSync(process.execPath, [fileURLToPath(new URL('warm-cache.cjs', import.meta.url)), outdir], { stdio: ['ignore', 'ignore', 'inherit'] });
if (warm.status !== 0) process.exit(1);
