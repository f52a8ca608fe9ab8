/** A folder in memory whose files and names are recorded on one clock, so that every state a power cut could leave of them can be rebuilt. */
import type { BlockDriver } from '../../src/block/driver.js';
import { temporaryName } from '../../src/block/leftovers.js';
import { crashStateAt } from '../../src/testing/power-cut.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';

/** A name was given to another file. Until that is acknowledged a cut may leave the former one. */
interface Replacement { readonly name: string; readonly former: Recording; readonly submitted: number; readonly acknowledged: number }

export class RecordedFolder {
  readonly #files = new Map<string, Recording>();
  readonly #replacements: Replacement[] = [];
  readonly #clock = { time: 0 };
  readonly #seed: number | undefined;

  /** With `seed` requests complete late and out of order. */
  constructor(files: ReadonlyMap<string, Uint8Array> = new Map(), seed?: number) {
    this.#seed = seed;
    for (const [name, content] of files) this.#add(name, content);
  }

  get time(): number { return this.#clock.time; }
  get replaced(): number { return this.#replacements.length; }

  contents(): Map<string, Uint8Array> {
    return new Map([...this.#files].map(([name, { content, size }]) => [name, content.slice(0, size)]));
  }

  /** Files by their names after a cut at some time; those that were never finished are not among them. */
  stateAt(time: number, random: () => number): { readonly files: Map<string, Uint8Array>; readonly description: string } {
    const files = new Map<string, Uint8Array>();
    const descriptions: string[] = [];
    for (const [name, last] of this.#files) {
      let recording = last;
      for (const { name: replaced, former, submitted, acknowledged } of this.#replacements.toReversed()) {
        if (replaced === name && (time <= submitted || (time < acknowledged && random() < 0.5))) recording = former;
      }
      const { image, description } = crashStateAt(recording, time, random);
      files.set(name, image);
      descriptions.push(`${name}${recording === last ? '' : ' (former)'} ${description}`);
    }
    return { files, description: descriptions.join('; ') };
  }

  /** It takes the place of the driver 'file'. */
  get driver(): BlockDriver {
    const recordingOf = (name: string): Recording => {
      const found = this.#files.get(name);
      if (found === undefined) throw new Error(`there is no file ${name}`);
      return found;
    };
    return {
      name: 'file', kind: 'protocol', children: {}, createOptions: {}, options: { filename: { type: 'string', help: 'its name' } }, protocolPrefixes: ['file'],
      open: async (context) => {
        const name = String((context.options as { filename?: unknown }).filename);
        const ops = await recorderDriver(recordingOf(name), this.#seed).open(context);
        ops.filename = () => name;
        return ops;
      },
      createFile: async (name) => { this.#add(name, new Uint8Array(0)); },
      deleteFile: async (name) => { this.#files.delete(name); },
      folders: {
        exists: async (name) => this.#files.has(name),
        list: async () => [...this.#files.keys()],
        link: () => Promise.reject(new Error('not needed')),
        replace: async (name, write) => {
          const temporary = temporaryName(name);
          await write(temporary);
          const former = recordingOf(name);
          const submitted = this.#clock.time++;
          this.#files.set(name, recordingOf(temporary));
          this.#files.delete(temporary);
          this.#replacements.push({ name, former, submitted, acknowledged: this.#clock.time++ });
        },
      },
    };
  }

  #add(name: string, content: Uint8Array): void {
    const recording = new Recording(content);
    Object.defineProperty(recording, 'time', { get: () => this.#clock.time, set: (time: number) => { this.#clock.time = time; } });
    this.#files.set(name, recording);
  }
}
