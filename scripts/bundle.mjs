// Bundles the command line for quick start-up: main.cjs with what common calls run, and a script for each folder whose modules are
// loaded on demand (a format, a tool). Beside each lies V8's compiled form of what calls use of it (.cache), which saves more than half
// of the time a call takes. Another Node version refuses it and compiles as usual.
import { build } from 'esbuild';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: { outdir: { type: 'string', default: 'dist/cli' } } });
const outdir = resolve(values.outdir);
const entry = 'src/face/cli/main.ts';
/** Loaded on demand, and yet so often that they belong to main.cjs. */
const common = /^src\/(drivers|format\/(qcow2|raw)\/.*|face\/cli\/(vdisk|qemu-img\/(index|check|compare|convert|create|info|info-text|map)))\.ts$/;

const settings = {
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
};

const { metafile: { inputs } } = await build({ ...settings, entryPoints: [entry], write: false, metafile: true });

/** The script of a module loaded on demand: its folder's. Tools that share a server or a library share one. */
function partOf(path) {
  if (common.test(path)) return undefined;
  const folder = dirname(path).replace(/^src\//, '');
  return /^face\/cli($|\/(?!qemu-img|qemu-io))/.test(folder) ? 'tools' : folder.replaceAll('/', '-');
}

/** Modules that come with these, and what they load on demand. */
function reach(paths) {
  const modules = new Set();
  const onDemand = new Map();
  const pending = [...paths];
  for (let path; (path = pending.pop()) !== undefined;) {
    if (modules.has(path)) continue;
    modules.add(path);
    for (const { path: to, kind, external } of inputs[path].imports) {
      if (external) continue;
      const part = kind === 'dynamic-import' ? partOf(to) : undefined;
      if (part === undefined) pending.push(to);
      else onDemand.set(part, (onDemand.get(part) ?? new Set()).add(to));
    }
  }
  return { modules, onDemand };
}

const parts = new Map();
for (const path of Object.keys(inputs)) {
  for (const [part, entries] of reach([path]).onDemand) parts.set(part, new Set([...parts.get(part) ?? [], ...entries]));
}
/** The script that holds a module: main, one part, or, where several parts need it, `shared`. Each module exists once. */
const homes = new Map();
for (const path of reach([entry]).modules) homes.set(path, 'main');
for (const [part, entries] of parts) {
  for (const path of reach(entries).modules) if (homes.get(path) !== 'main') homes.set(path, homes.has(path) ? 'shared' : part);
}

/** Modules of each script that others ask for. */
const asked = new Map([...new Set(homes.values())].map((home) => [home, new Set()]));
/** Leaves out modules whose home is another script. */
const elsewhere = (home) => ({
  name: 'elsewhere',
  setup({ onResolve }) {
    onResolve({ filter: /^\.\.?\// }, ({ path: name, resolveDir }) => {
      const path = relative('.', resolve(resolveDir, name)).replace(/\.js$/, '.ts');
      const other = homes.get(path);
      if (other === home) return undefined;
      asked.get(other).add(path);
      return { path: `script:${other}:${path}`, external: true };
    });
  },
});

mkdirSync(outdir, { recursive: true });
// V8 knows a script only by its length: no compiled form may outlive its script.
for (const name of readdirSync(outdir)) if (!name.endsWith('.cjs') || !asked.has(name.slice(0, -'.cjs'.length))) rmSync(join(outdir, name));
for (const [part, entries] of parts) for (const path of entries) asked.get(homes.get(path)).add(path);
async function bundle(home) {
  // each module is made when it is asked for
  const modules = [...asked.get(home)].sort().map((path) => `${JSON.stringify(path)}: () => require("./${path}")`);
  const contents = `${home === 'main' ? `export { run, stopped } from "./${entry}";` : ''} export const modules = { ${modules.join(', ')} };`;
  await build({ ...settings, plugins: [elsewhere(home)], outfile: join(outdir, `${home}.cjs`), stdin: { contents, resolveDir: '.', sourcefile: `${home}.js` } });
}
// What a script holds for others is known when they are made.
await Promise.all([...asked.keys()].filter((home) => parts.has(home)).map(bundle));
for (const home of ['shared', 'main']) await bundle(home);

const warm = spawnSync(process.execPath, [fileURLToPath(new URL('warm-cache.cjs', import.meta.url)), outdir], { stdio: ['ignore', 'ignore', 'inherit'] });
if (warm.status !== 0) process.exit(1);
