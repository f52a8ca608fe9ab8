/**
 * The power-cut explorer: from what a {@link Recording} logged, every kind of state a loss of power could leave on the medium,
 * and what a guest may then still find.
 */
import { firstDifference } from '../platform/bytes.js';
import { applyChange, type RecordedChange, type Recording } from './recorder.js';

const SECTOR = 512;

export interface CrashState {
  readonly image: Uint8Array;
  /** Logical time of the cut. */
  readonly time: number;
  /** For reports: which unflushed changes reached the medium. */
  readonly description: string;
}

/**
 * Crash states at random instants: all durable changes, and of the others all, none, a subset, in another order, the last ones
 * torn between sectors. Endless; take as many as wanted.
 */
export function* crashStates(recording: Recording, random: () => number): Generator<CrashState, never> {
  for (;;) yield crashStateAt(recording, Math.floor(random() * (recording.time + 1)), random);
}

/** One of the states that a cut at that logical time could leave. */
export function crashStateAt(recording: Recording, time: number, random: () => number): CrashState {
  let covered = -1;
  for (const flush of recording.flushes) if (flush.acknowledged <= time) covered = Math.max(covered, flush.submitted);
  const submitted = recording.changes.filter((change) => change.submitted < time);
  const durable = submitted.filter((change) => change.acknowledged <= covered);
  const floating = submitted.filter((change) => change.acknowledged > covered);
  const mode = Math.floor(random() * 5);
  let survivors = floating;
  if (mode === 1) survivors = [];
  if (mode >= 2) {
    const keep = random();
    survivors = floating.filter(() => random() < keep);
  }
  if (mode === 3) survivors = shuffled(survivors, random);
  if (mode === 4) survivors = survivors.flatMap((change) => (random() < 0.3 ? torn(change, random) : [change]));
  const image = { content: recording.initial.slice(), size: recording.initial.length };
  for (const change of durable) applyChange(image, change);
  for (const change of survivors) applyChange(image, change);
  return {
    image: image.content.slice(0, image.size),
    time,
    description: `cut at ${time} of ${recording.time}: ${durable.length} durable changes, ${survivors.length} of ${floating.length} others, mode ${mode}`,
  };
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const result = [...items];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [result[i], result[j]] = [result[j]!, result[i]!];
  }
  return result;
}

/** A part of the change that begins and ends at sector boundaries. */
function torn(change: RecordedChange, random: () => number): RecordedChange[] {
  if (change.kind === 'resize') return [change];
  const first = Math.ceil(change.offset / SECTOR);
  const last = Math.floor((change.offset + change.length) / SECTOR);
  if (last - first < 1) return random() < 0.5 ? [change] : [];
  const cut = (first + Math.floor(random() * (last - first + 1))) * SECTOR;
  const head = random() < 0.5;
  const start = head ? change.offset : cut;
  const end = head ? cut : change.offset + change.length;
  if (start === end) return [];
  return [{ ...change, offset: start, length: end - start, ...(change.data && { data: change.data.slice(start - change.offset, end - change.offset) }) }];
}

interface GuestWrite {
  readonly data: Uint8Array;
  readonly submitted: number;
  acknowledged: number;
}

/**
 * What a guest may find after a cut: per 512-byte sector the content last made durable, or any version written since.
 * The guest calls write() with the recording's time before and after each of its requests.
 */
export class GuestHistory {
  readonly #versions = new Map<number, GuestWrite[]>();
  readonly #flushes: { readonly submitted: number; readonly acknowledged: number }[] = [];
  readonly #initial: Uint8Array;

  constructor(initial: Uint8Array) {
    this.#initial = initial.slice();
  }

  /** Records a write of whole sectors; call the result when it is acknowledged. */
  write(offset: number, data: Uint8Array, time: number): (time: number) => void {
    const added: GuestWrite[] = [];
    for (let at = 0; at < data.length; at += SECTOR) {
      const sector = (offset + at) / SECTOR;
      const version = { data: data.slice(at, at + SECTOR), submitted: time, acknowledged: Infinity };
      const known = this.#versions.get(sector);
      if (known) known.push(version);
      else this.#versions.set(sector, [version]);
      added.push(version);
    }
    return (acknowledged) => { for (const version of added) version.acknowledged = acknowledged; };
  }

  /** Records a flush that was acknowledged. */
  flushed(submitted: number, acknowledged: number): void {
    this.#flushes.push({ submitted, acknowledged });
  }

  /** Offset of the first sector of `content` that no legal history explains at that time; undefined if all are fine. */
  firstIllegal(content: Uint8Array, time: number): number | undefined {
    let covered = -1;
    for (const flush of this.#flushes) if (flush.acknowledged <= time) covered = Math.max(covered, flush.submitted);
    for (let at = 0; at < content.length; at += SECTOR) {
      const found = content.subarray(at, at + SECTOR);
      if (!this.#legalVersions(at / SECTOR, time, covered).some((version) => firstDifference(version, found) === -1)) return at;
    }
    return undefined;
  }

  #legalVersions(sector: number, time: number, covered: number): Uint8Array[] {
    let legal = [this.#initial.subarray(sector * SECTOR, (sector + 1) * SECTOR)];
    const versions = this.#versions.get(sector) ?? [];
    for (const version of versions) {
      if (version.submitted >= time) continue;
      // a durable version supersedes all that were acknowledged before it was submitted
      if (version.acknowledged <= covered) {
        legal = versions.filter((other) => other !== version && other.submitted < time && other.acknowledged > version.submitted).map((other) => other.data);
      }
      legal.push(version.data);
    }
    return legal;
  }
}
