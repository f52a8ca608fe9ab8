// Paired measuring: two commands in turn, n times; the figure is the median of the ratios ours/peer, with the range.
import { spawnSync } from 'node:child_process';

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Seconds a command takes; fails loudly. */
export function seconds(command, options = {}) {
  const start = process.hrtime.bigint();
  const result = spawnSync(command[0], command.slice(1), { encoding: 'utf8', maxBuffer: 1 << 26, ...options });
  const elapsed = Number(process.hrtime.bigint() - start) / 1e9;
  if (result.status !== 0) throw new Error(`${command.join(' ')}: status ${result.status}\n${result.error ?? ''}${result.stderr}`);
  return elapsed;
}

/** Ratios ours/peer of a figure over n interleaved pairs; who goes first alternates. */
export async function pairs(n, ours, peer) {
  const a = [];
  const b = [];
  for (let i = 0; i < n; i++) {
    if (i % 2) { b.push(await peer()); a.push(await ours()); } else { a.push(await ours()); b.push(await peer()); }
  }
  const ratios = a.map((value, i) => value / b[i]);
  return { ours: median(a), peer: median(b), ratio: median(ratios), min: Math.min(...ratios), max: Math.max(...ratios) };
}

export function row(name, unit, result, digits = 3) {
  const line = `| ${name} | ${result.ours.toFixed(digits)} ${unit} | ${result.peer.toFixed(digits)} ${unit} | ${result.ratio.toFixed(2)} [${result.min.toFixed(2)}..${result.max.toFixed(2)}] |`;
  console.log(line);
  return line;
}
