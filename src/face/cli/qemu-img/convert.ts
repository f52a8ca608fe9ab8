/** qemu-img convert */
import { protocolOf } from '../../../block/create.js';
import type { BlockBackend } from '../../../block/child.js';
import type { BlockGraph } from '../../../block/graph.js';
import { Perm } from '../../../block/driver.js';
import { parseKeyValues, type Options } from '../../../block/key-values.js';
import { convertImages } from '../../../image/convert.js';
import { createFields, creatableFormat } from '../../../image/create.js';
import { keepToOneThread } from '../../../platform/engine.js';
import { loadSnapshot, type SnapshotReference } from '../../../image/snapshot-source.js';
import { CliError, out, removeOnInterrupt, setQuiet, warn } from '../output.js';
import { cacheArgument, openImage, sharedGraph } from '../open.js';
import { Progress } from '../progress.js';
import { numberArgument, sizeArgument } from '../sizes.js';
import { fromStandardInput, isStream, requireWhole, toStandardOutput } from '../streams.js';
import { asksForHelp, optionTable } from './create-options.js';
import { joinOptionLists, snapshotArgument, VerbOptions } from './options.js';

const defaultMinSparse = 4096;
const largestMinSparse = 16 << 20;
/** Copying that much takes long enough for the engine to optimise what it runs, and is mostly done by the kernel. */
const longCopy = 64 << 20;

class Settings {
  format: string | undefined;
  targetFormat: string | undefined;
  sourceCache = 'writeback';
  targetCache = 'unsafe';
  backing: string | undefined;
  backingFormat: string | undefined;
  optionLists: string[] = [];
  snapshot: SnapshotReference | string | undefined;
  minSparse: number | undefined;
  parallel = 8;
  rate = 0;
  readonly #flags = new Set<string>();

  has(flag: string): boolean { return this.#flags.has(flag); }

  take(name: string, value: string): void {
    switch (name) {
      case 'source-format': this.format = value; break;
      case 'target-format': this.targetFormat = value; break;
      case 'source-cache': this.sourceCache = value; break;
      case 'target-cache': this.targetCache = value; break;
      case 'backing': this.backing = value; break;
      case 'backing-format': this.backingFormat = value; break;
      case 'target-options': this.optionLists.push(value); break;
      case 'source-snapshot': this.snapshot = snapshotArgument(value); break;
      case 'sparse-size': this.minSparse = sparseArgument(value); break;
      case 'parallel': this.parallel = numberArgument('number of coroutines', value, 1, 16n); break;
      case 'rate': this.rate = sizeArgument('rate limit', value); break;
      default: this.#flags.add(name);
    }
  }
}

const definitions = [
  'f,source-format=', 'O,target-format=', 'B,backing=', 'F,backing-format=', 'o,target-options=', 'l,source-snapshot=', 'S,sparse-size=',
  't,target-cache=', 'T,source-cache=', 'm,parallel=', 'r,rate=', 'c,compress', 'p,progress', 'q,quiet', 'n,no-create', 'W,oob-writes',
  'C,copy-range-offloading', 'U,force-share', 'image-opts', 'source-image-opts', 'target-image-opts', 'target-is-zero', 'salvage',
  'bitmaps', 'skip-broken-bitmaps', 'object=',
];

export async function main(argv: string[]): Promise<number> {
  const settings = new Settings();
  const options = new VerbOptions('convert', argv, definitions);
  for await (const { name, value } of options) settings.take(name, value ?? '');
  const optionText = joinOptionLists(settings.optionLists);
  const sources = options.operands.slice(0, -1);
  const filename = options.operands.at(-1);
  if (asksForHelp(optionText)) return help(settings.targetFormat ?? 'raw', sources.length > 0 ? filename : undefined);
  check(settings, optionText, sources.length);
  if (settings.has('quiet')) setQuiet(true);

  const progress = new Progress(settings.has('progress') && !settings.has('quiet'), 1, isStream(filename));
  progress.report(0, 1);
  const opened: BlockBackend[] = [];
  try {
    await openSources(settings, sources, opened);
    if (isStream(filename)) await stream(settings, optionText, opened, progress);
    else await convert(settings, optionText, opened, filename!, progress);
    progress.report(1, 1);
  } finally {
    for (const image of opened) await image.close();
    progress.end();
  }
  return 0;
}

function check(settings: Settings, optionText: string | undefined, sources: number): void {
  const { minSparse, snapshot } = settings;
  const targetImageOpts = settings.has('target-image-opts');
  if (settings.has('copy-range-offloading') && settings.has('compress')) throw new CliError('Cannot enable copy offloading when -c is used');
  if (settings.has('copy-range-offloading') && minSparse !== undefined) throw new CliError('Cannot enable copy offloading when -S is used');
  if (settings.has('copy-range-offloading') && settings.has('salvage')) throw new CliError('Cannot use copy offloading in salvaging mode');
  if (settings.has('skip-broken-bitmaps') && !settings.has('bitmaps')) throw new CliError('Use of --skip-broken-bitmaps requires --bitmaps');
  if (targetImageOpts && !settings.has('no-create')) throw new CliError('--target-image-opts requires use of -n flag');
  if ((fromImageOpts(settings) && settings.format !== undefined) || (targetImageOpts && settings.targetFormat !== undefined)) {
    throw new CliError('--image-opts and --format are mutually exclusive');
  }
  if (sources === 0) throw new CliError('Must specify image file name');
  if (optionText !== undefined && settings.has('no-create')) throw new CliError('-o has no effect when skipping image creation');
  if (settings.has('target-is-zero') && !settings.has('no-create')) throw new CliError('--target-is-zero requires use of -n flag');
  if (settings.has('target-is-zero') && settings.backing !== undefined) {
    throw new CliError('Cannot use --target-is-zero when the destination image has a backing file');
  }
  if (snapshot !== undefined && sources > 1) throw new CliError('No support for concatenating multiple snapshot');
}

function fromImageOpts(settings: Settings): boolean {
  return settings.has('image-opts') || settings.has('source-image-opts');
}

async function openSources(settings: Settings, names: readonly string[], opened: BlockBackend[]): Promise<void> {
  const cache = cacheArgument(settings.sourceCache, 'source cache');
  cacheArgument(settings.targetCache);
  for (const name of names) {
    const source = await openImage(isStream(name) ? await fromStandardInput() : name, {
      title: isStream(name) ? 'standard input' : undefined,
      format: settings.format, imageOpts: fromImageOpts(settings), forceShare: settings.has('force-share'), cache,
      // Nobody may change what is being copied.
      options: { share: Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED },
    });
    opened.push(source);
    if (isStream(name) && !settings.has('salvage')) await requireWhole(source);
  }
  if (settings.snapshot !== undefined) await loadSnapshot(opened[0]!, settings.snapshot);
}

async function convert(settings: Settings, optionText: string | undefined, sources: readonly BlockBackend[], filename: string, progress: Progress): Promise<void> {
  const create = !settings.has('no-create');
  const imageOpts = settings.has('target-image-opts');
  const format = imageOpts ? undefined : settings.targetFormat ?? 'raw';
  const finished: (() => void)[] = [];
  const tell = settings.has('quiet') ? undefined : warn;
  if (sources.some(({ size }) => size >= longCopy)) keepToOneThread();
  const graph = await sharedGraph();
  try {
    await convertImages(graph, {
      sources,
      create: create ? { filename, format: format!, optionText, backing: settings.backing, backingFormat: settings.backingFormat } : undefined,
      backing: settings.backing,
      openTarget: () => openImage(filename, {
        format, imageOpts, cache: cacheArgument(settings.targetCache), writable: true, options: { discard: 'unmap' },
        ...(create && { driverOptions: newImageOptions(graph, format!, optionText) }),
      }),
      targetIsZero: settings.has('target-is-zero'),
      compress: settings.has('compress'),
      bitmaps: settings.has('bitmaps') ? (settings.has('skip-broken-bitmaps') ? 'sound' : 'all') : undefined,
      copy: {
        minSparse: settings.minSparse ?? defaultMinSparse,
        parallel: settings.parallel,
        outOfOrder: settings.has('oob-writes'),
        rate: settings.rate,
        offload: settings.has('copy-range-offloading'),
        salvage: settings.has('salvage') ? tell ?? (() => undefined) : undefined,
        progress: (done, total) => progress.report(done, total),
        progressByPlace: !progress.shown,
      },
      warn: tell,
      creating: (made) => finished.push(removeOnInterrupt(made)),
    });
  } finally {
    for (const forget of finished) forget();
  }
}

/** Options that only make sense where the target can be gone back in. */
const notForStreams = ['no-create', 'compress', 'bitmaps', 'salvage', 'copy-range-offloading', 'target-is-zero', 'target-image-opts'];

async function stream(settings: Settings, optionText: string | undefined, sources: readonly BlockBackend[], progress: Progress): Promise<void> {
  const unfit = notForStreams.find((flag) => settings.has(flag));
  if (unfit !== undefined) throw new CliError(`--${unfit} cannot be used when writing to standard output`);
  if (settings.backing !== undefined) throw new CliError('An image on standard output cannot have a backing file');
  if (sources.length > 1) throw new CliError('Only one image can be written to standard output');
  await toStandardOutput(sources[0]!, { format: settings.targetFormat ?? 'raw', optionText }, (done, total) => progress.report(done, total));
}

function sparseArgument(text: string): number {
  const size = sizeArgument('buffer size for sparse output', text);
  if (size % 512 === 0 && size <= largestMinSparse) return size;
  throw new CliError(`Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to ${largestMinSparse}. `
    + 'Select 0 to disable sparse detection (fully allocates output).');
}

async function help(format: string, filename: string | undefined): Promise<number> {
  const graph = await sharedGraph();
  const driver = creatableFormat(graph, format);
  if (filename !== undefined) out(optionTable('Supported options:', createFields(driver, protocolOf(graph, filename))));
  else {
    out(optionTable(`Supported ${format} options:`, createFields(driver)));
    out('\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n');
  }
  return 0;
}

/** What a new image is opened with: what suits filling it, and the keys of one that was made encrypted; undefined for others. */
function newImageOptions(graph: BlockGraph, format: string, optionText: string | undefined): Options | undefined {
  const secrets = [...parseKeyValues(optionText ?? '').values].filter(([name]) => name.endsWith('key-secret'));
  const options = { ...creatableFormat(graph, format).fillOptions, ...Object.fromEntries(secrets) };
  return Object.keys(options).length === 0 ? undefined : options;
}
