// Loads the bundled command line, with V8's compiled form of it where that fits this Node.
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { Script } = require('node:vm');

/** Loads the scripts of a folder. `scripts` holds those that have been loaded, by name. */
exports.load = function load(folder, cached = true) {
  const scripts = new Map();
  const loaded = (name) => {
    if (!scripts.has(name)) scripts.set(name, loadScript(name));
    return scripts.get(name).exports;
  };
  const modules = new Map();
  /** Finds what another script holds, `script:NAME:PATH`, or Node's modules and those that are installed. */
  const find = (id) => {
    // what it would look for lies where this finds it, too
    if (id === 'node:module') return { createRequire: () => require };
    const [where, name, path] = id.split(':');
    if (where !== 'script') return require(id);
    // A copy with plain members: what bundles hand out are getters behind getters, which each use of a name would run.
    if (!modules.has(id)) modules.set(id, { ...loaded(name).modules[path]() });
    return modules.get(id);
  };
  const loadScript = (name) => {
    const filename = join(folder, `${name}.cjs`);
    const source = readFileSync(filename, 'latin1');
    let cachedData;
    try {
      if (cached) cachedData = readFileSync(join(folder, `${name}.cache`));
    } catch {
      // built without it
    }
    const script = new Script(source, { filename, cachedData });
    const module = { exports: {} };
    script.runInThisContext()(module.exports, find, module, filename, folder);
    return { script, exports: module.exports };
  };
  const { run, stopped } = loaded('main');
  return { scripts, run, stopped };
};

exports.start = (program) => {
  const { run, stopped } = exports.load(join(__dirname, '../dist/cli'));
  process.once('beforeExit', stopped);
  run(program, process.argv.slice(2));
};
