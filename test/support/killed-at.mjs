// Loaded before a program (node --import): the process kills itself before a certain change of the file system.
//   KILL_AT=n: before the n-th call; without it the number of calls is told on standard error at the end.
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const changes = ['open', 'link', 'rename', 'rm', 'unlink', 'truncate', 'writeFile', 'write', 'writev', 'ftruncate', 'fdatasync', 'fsync', 'copyFile', 'chmod'];
const at = Number(process.env.KILL_AT ?? 0);
let calls = 0;

function watch(holder, name) {
  const original = holder[name];
  if (typeof original !== 'function') return;
  holder[name] = function watched(...parameters) {
    if (++calls === at) process.kill(process.pid, 'SIGKILL');
    return original.apply(this, parameters);
  };
}
for (const name of changes) for (const [holder, each] of [[fs, name], [fs, `${name}Sync`], [fs.promises, name]]) watch(holder, each);
syncBuiltinESMExports();
if (at === 0) process.on('exit', () => fs.writeSync(2, `calls: ${calls}\n`));
