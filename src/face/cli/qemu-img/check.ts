/** qemu-img check */
import { BlockError, strerror } from '../../../block/errors.js';
import type { CheckResult } from '../../../block/facets.js';
import { checkImage, type Repair } from '../../../image/check.js';
import { printQJson } from '../../../util/qjson.js';
import { formatHundredths } from '../../../util/units.js';
import { CliError, err, ExitError, out, reportError, say, setQuiet, usageError } from '../output.js';
import { cacheArgument, openImage, withImage, type CacheMode } from '../open.js';
import { checkImageOptions, oneFilename, outputFormat, VerbOptions } from './options.js';

/** Exit codes: sound or repaired, failed, corrupt, leaking, format without checks. */
const exitCode = { sound: 0, failed: 1, corrupt: 2, leaks: 3, unsupported: 63 } as const;

export async function main(argv: string[]): Promise<number> {
  let format: string | undefined;
  let output = 'human';
  let cacheName = 'writeback';
  let repair: Repair = 'none';
  let [imageOpts, forceShare] = [false, false];
  const options = new VerbOptions('check', argv, [
    'q,quiet', 'f,format=', 'r,repair=', 'output=', 'T,cache=', 'object=', 'image-opts', 'U,force-share',
  ]);
  for await (const { name, value } of options) {
    if (name === 'quiet') setQuiet(true);
    else if (name === 'format') format = value;
    else if (name === 'repair') repair = repairArgument(value!);
    else if (name === 'output') output = value!;
    else if (name === 'cache') cacheName = value!;
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'force-share') forceShare = true;
  }
  const filename = oneFilename(options.operands);
  const json = outputFormat(output) === 'json';
  const cache: CacheMode = cacheArgument(cacheName, 'source cache');
  checkImageOptions({ imageOpts, format });
  const backend = await openImage(filename, {
    format, imageOpts, cache, forceShare, writable: repair !== 'none', resize: repair !== 'none', options: { check: true, discard: 'unmap' },
  });
  return withImage(backend, async () => {
    const result = await check();
    if (json) out(`${printQJson(jsonResult(result, filename, backend.node.driver.name), true)}\n`);
    else say(textResult(result));
    return verdict(result);
  });

  async function check(): Promise<CheckResult> {
    try {
      return await checkImage(backend.node, {
        repair,
        report: (line) => err(`${line}\n`),
        reportError: (line) => reportError(line),
        repaired: (result) => {
          if (!json) say(repairedText(result));
        },
      });
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      if (error.code === 'NOT_SUPPORTED') {
        reportError('This image format does not support checks');
        throw new ExitError(exitCode.unsupported);
      }
      throw new CliError(`Check failed: ${strerror(error.errno)}`);
    }
  }
}

function repairArgument(value: string): Repair {
  if (value === 'leaks' || value === 'all') return value;
  throw usageError(`Unknown option value for -r (expecting 'leaks' or 'all'): ${value}`);
}

function verdict(result: CheckResult): number {
  if (result.checkErrors > 0) throw new CliError('Check failed');
  return result.corruptions > 0 ? exitCode.corrupt : result.leaks > 0 ? exitCode.leaks : exitCode.sound;
}

function repairedText({ leaksFixed, corruptionsFixed }: CheckResult): string {
  return `The following inconsistencies were found and repaired:\n\n    ${leaksFixed} leaked clusters\n    ${corruptionsFixed} corruptions\n\n`
    + 'Double checking the fixed image now...\n';
}

function textResult(result: CheckResult): string {
  const { corruptions, leaks, checkErrors, totalClusters = 0, allocatedClusters = 0, fragmentedClusters = 0, compressedClusters = 0, imageEndOffset = 0 } = result;
  let text = '';
  if (corruptions === 0 && leaks === 0 && checkErrors === 0) text += 'No errors were found on the image.\n';
  if (corruptions > 0) {
    text += `\n${corruptions} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n`;
  }
  if (leaks > 0) text += `\n${leaks} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n`;
  if (checkErrors > 0) text += `\n${checkErrors} internal errors have occurred during the check.\n`;
  if (totalClusters > 0 && allocatedClusters > 0) {
    const percent = (part: number, whole: number): string => `${formatHundredths((part * 100) / whole)}%`;
    text += `${allocatedClusters}/${totalClusters} = ${percent(allocatedClusters, totalClusters)} allocated, `
      + `${percent(fragmentedClusters, allocatedClusters)} fragmented, ${percent(compressedClusters, allocatedClusters)} compressed clusters\n`;
  }
  if (imageEndOffset > 0) text += `Image end offset: ${imageEndOffset}\n`;
  return text;
}

/** QAPI's ImageCheck; counts of zero are left out. */
function jsonResult(result: CheckResult, filename: string, format: string): Record<string, string | number | undefined> {
  const some = (count: number | undefined): number | undefined => (count === 0 ? undefined : count);
  return {
    filename,
    format,
    'check-errors': result.checkErrors,
    'image-end-offset': some(result.imageEndOffset),
    corruptions: some(result.corruptions),
    leaks: some(result.leaks),
    'corruptions-fixed': some(result.corruptionsFixed),
    'leaks-fixed': some(result.leaksFixed),
    'total-clusters': some(result.totalClusters),
    'allocated-clusters': some(result.allocatedClusters),
    'fragmented-clusters': some(result.fragmentedClusters),
    'compressed-clusters': some(result.compressedClusters),
  };
}
