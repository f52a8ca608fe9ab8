// The dependency rule over src/: which file may import what. Prints one line per violation; exit 1 if there is any.
// Usage: node scripts/check-imports.mjs [folder that holds src/]
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, relative, sep } from 'node:path';
import ts from 'typescript';

const root = join(process.argv[2] ?? dirname(import.meta.dirname), 'src');
const levels = { util: 0, wire: 1, block: 2, platform: 3, crypto: 3.5, protocol: 4, format: 4, filter: 4, 'drivers.ts': 5, testing: 5, job: 6, image: 7, face: 8 };
const entryPoint = { level: 10, unit: '' };

/** Where a file stands: its level, and the unit inside which it may import freely. */
function place(file) {
  const parts = file.split('/');
  const [area] = parts;
  if (parts.length === 1) return area === 'drivers.ts' ? { area, level: levels[area], unit: area } : { area, ...entryPoint };
  const level = levels[area];
  if (level === undefined) return undefined;
  const perFolder = area === 'protocol' || area === 'format' || area === 'filter' || area === 'face';
  const unit = perFolder && parts.length > 2 ? `${area}/${parts[1]}` : area;
  // The command line starts the other faces.
  return { area, level: unit === 'face/cli' ? level + 1 : level, unit };
}
const isDriver = (at) => at.level === levels.protocol;
const doesNoIo = (file) => file.startsWith('wire/') || /^format\/[^/]+\/(header|tables)[^/]*\.ts$/.test(file);
/** Modules of the block layer without I/O: names, numbers and errors. */
const pureBlock = /^block\/(errors|options|driver)\.ts$/;
const reachesTheHost = new Set(['platform', 'protocol', 'face']);

function violation(file, from, target, typeOnly) {
  if (!target.startsWith('.')) {
    if (!reachesTheHost.has(from.area) && !(from.level === entryPoint.level && typeOnly)) {
      return 'Node modules and packages are imported only under platform/, protocol/ and face/';
    }
    return undefined;
  }
  const resolved = posix.join(posix.dirname(file), target).replace(/\.js$/, '.ts');
  if (resolved.startsWith('..')) return 'leaves src/';
  const to = place(resolved);
  if (to === undefined) return `${resolved.split('/')[0]}/ is not a layer of the plan`;
  if (doesNoIo(file) && !typeOnly) {
    const harmless = to.area === 'util' || to.area === 'wire' || pureBlock.test(resolved)
      || (to.unit === from.unit && !/\/(index|ops|check|create)\.ts$/.test(resolved));
    if (!harmless) return 'codecs, headers and tables do no I/O';
  }
  if (to.unit === from.unit && to.unit !== '') return undefined;
  if (isDriver(to) && from.area !== 'drivers.ts') {
    return isDriver(from) ? 'drivers never import each other: open the child by its registry name' : 'only src/drivers.ts names drivers';
  }
  if (to.level >= from.level) return `${from.unit || file} (level ${from.level}) may only import lower levels, not ${to.unit || resolved} (level ${to.level})`;
  return undefined;
}

/** Every module a source names: imports, re-exports, import() and import types. */
function* references(source) {
  const found = [];
  const visit = (node) => {
    if ((ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier) {
      const clause = ts.isImportDeclaration(node) ? node.importClause : node;
      const named = ts.isImportDeclaration(node) ? node.importClause?.namedBindings : node.exportClause;
      const elements = named && 'elements' in named ? named.elements : undefined;
      const typeOnly = clause?.isTypeOnly === true
        || (elements !== undefined && elements.length > 0 && !node.importClause?.name && elements.every((element) => element.isTypeOnly));
      found.push({ node, target: node.moduleSpecifier.text, typeOnly });
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword && ts.isStringLiteral(node.arguments[0])) {
      found.push({ node, target: node.arguments[0].text, typeOnly: false });
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      found.push({ node, target: node.argument.literal.text, typeOnly: true });
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  for (const { node, target, typeOnly } of found) {
    yield { line: source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1, target, typeOnly };
  }
}

let files = 0;
let bad = 0;
for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !entry.name.endsWith('.ts') || entry.name.endsWith('.test.ts')) continue;
  const path = join(entry.parentPath, entry.name);
  const file = relative(root, path).split(sep).join('/');
  const from = place(file);
  files++;
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.ES2022);
  const complain = (line, text) => { bad++; console.error(`src/${file}:${line}  ${text}`); };
  if (from === undefined) {
    complain(1, `${file.split('/')[0]}/ is not a layer of the plan`);
    continue;
  }
  for (const { line, target, typeOnly } of references(source)) {
    const reason = violation(file, from, target, typeOnly);
    if (reason !== undefined) complain(line, `imports ${target}: ${reason}`);
  }
}
console.log(`imports: ${files} files, ${bad} ${bad === 1 ? 'violation' : 'violations'} of the dependency rule`);
process.exitCode = bad > 0 ? 1 : 0;
