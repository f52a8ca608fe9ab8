/** VixDiskLib as one file, for tests whose processes are killed or live elsewhere. */
import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';

const project = join(import.meta.dirname, '../..');

/** Makes it in a folder, from the sources as they are. Returns its name. */
export async function bundleVixDiskLib(folder: string): Promise<string> {
  const library = join(folder, 'vixdisklib.cjs');
  await build({
    entryPoints: [join(project, 'src/face/vixdisklib/index.ts')], outfile: library, bundle: true, format: 'cjs', platform: 'node', target: 'node20',
    external: ['koffi', '@bokuweb/zstd-wasm', 'hash-wasm'], banner: { js: 'const bundleUrl=require("node:url").pathToFileURL(__filename).href;' }, define: { 'import.meta.url': 'bundleUrl' },
    supported: { 'dynamic-import': false }, logLevel: 'error',
  });
  symlinkSync(join(project, 'node_modules'), join(folder, 'node_modules'));
  return library;
}
