// Loads the bundled command line, with V8's compiled form of it where that fits this Node.
const { readFileSync } = require('node:fs');
const { createRequire } = require('node:module');
const { join } = require('node:path');
const { Script } = require('node:vm');

/** The compiled script and its exports. */
exports.load = function load(folder, cached = true) {
  const filename = join(folder, 'main.cjs');
  const source = readFileSync(filename, 'latin1');
  let cachedData;
  try {
    if (cached) cachedData = readFileSync(join(folder, 'main.cache'));
  } catch {
    // built without it
  }
  const script = new Script(source, { filename, cachedData });
  const module = { exports: {} };
  script.runInThisContext()(module.exports, createRequire(filename), module, filename, folder);
  return { script, run: module.exports.run };
};

exports.start = (program) => exports.load(join(__dirname, '../dist/cli')).run(program, process.argv.slice(2));
