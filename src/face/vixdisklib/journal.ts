/** Where operations are under way, so that what a crashed run left is found again. */
import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';

/**
 * A folder of this user's alone with a note for each folder in which a process is making something. The notes name folders only: what
 * is removed there is what its own name says is unfinished. Operations go on without notes where they cannot be made.
 */
export class Journal {
  readonly #place: string;
  readonly #users = new Map<string, number>();
  readonly #targets = new Set<string>();

  constructor(temporaryFolder = tmpdir()) {
    this.#place = join(temporaryFolder, `vdisk-vixdisklib-${userInfo().uid}`);
  }

  /** Claims a file that is being made; undefined where this library is making it already. The result ends the claim. */
  begin(folder: string, target: string): (() => void) | undefined {
    if (this.#targets.has(target)) return undefined;
    const note = this.#note(folder);
    this.#write(note, folder);
    this.#targets.add(target);
    this.#users.set(folder, (this.#users.get(folder) ?? 0) + 1);
    return () => {
      this.#targets.delete(target);
      const users = this.#users.get(folder)! - 1;
      if (users > 0) this.#users.set(folder, users);
      else {
        this.#users.delete(folder);
        this.#remove(note);
      }
    };
  }

  /** Folders that processes noted which are no more, and no others. */
  folders(): string[] {
    const [dead, alive] = [new Set<string>(), new Set<string>()];
    for (const note of this.#notes()) (isRunning(note.process) ? alive : dead).add(note.folder);
    return [...dead].filter((folder) => !alive.has(folder));
  }

  /** Nothing is left there. */
  forget(folder: string): void {
    for (const note of this.#notes()) if (note.folder === folder && !isRunning(note.process)) rmSync(note.path, { force: true });
  }

  #note(folder: string): string {
    return join(this.#place, `${createHash('sha256').update(folder).digest('hex').slice(0, 32)}-${process.pid}`);
  }

  #notes(): { readonly path: string; readonly folder: string; readonly process: number }[] {
    if (!this.#isOurs()) return [];
    return readdirSync(this.#place).filter((name) => /^[0-9a-f]{32}-\d+$/.test(name)).flatMap((name) => {
      const path = join(this.#place, name);
      try {
        return [{ path, folder: readFileSync(path, 'utf8'), process: Number(name.slice(33)) }];
      } catch {
        return [];
      }
    });
  }

  #write(note: string, folder: string): void {
    try {
      mkdirSync(this.#place, { recursive: true, mode: 0o700 });
      if (this.#isOurs()) writeFileSync(note, folder, { mode: 0o600 });
    } catch {
      // a full or read-only disk is no reason not to do what was asked
    }
  }

  #remove(note: string): void {
    try {
      rmSync(note, { force: true });
    } catch {
      // what was asked is done; Cleanup takes the note for one of a run that ended
    }
  }

  /** A folder that somebody else made in the same place is not believed. */
  #isOurs(): boolean {
    const found = lstatSync(this.#place, { throwIfNoEntry: false });
    const { uid } = userInfo();
    return found?.isDirectory() === true && (uid === -1 || (found.uid === uid && (found.mode & 0o022) === 0));
  }
}

function isRunning(id: number): boolean {
  try {
    process.kill(id, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
