/** Commands about the open image as a whole. */
import { Perm, type Preallocation } from '../../../../block/driver.js';
import { BlockError, strerror } from '../../../../block/errors.js';
import type { BlockNode } from '../../../../block/node.js';
import { parseOptions, requestFailure, wrongUsage, type Command } from '../command.js';
import { formatQuantity, parseQuantity } from '../values.js';

export const flush: Command = {
  name: 'flush', alias: 'f', minimum: 0, maximum: 0,
  summary: 'flush all in-core file state to disk',
  async run(_args, session) {
    try {
      await session.backend.flush();
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      return false;
    }
    await session.settle();
    return true;
  },
};

const preallocations: readonly string[] = ['off', 'metadata', 'falloc', 'full'] satisfies readonly Preallocation[];

export const truncate: Command = {
  name: 'truncate', alias: 't', minimum: 1, maximum: 3, permissions: Perm.WRITE | Perm.RESIZE,
  usage: '[-m prealloc_mode] off',
  summary: 'truncates the current file at the given offset',
  async run(args, session) {
    const { options, operands } = parseOptions(truncate, args, ['m='], session);
    const preallocation = options.at(-1)?.value ?? 'off';
    if (!preallocations.includes(preallocation)) {
      session.complain(`Invalid preallocation mode '${preallocation}'`);
      return false;
    }
    if (operands[0] === undefined) throw wrongUsage(truncate);
    try {
      await session.backend.resize(parseQuantity(operands[0]), { preallocation: preallocation as Preallocation, exact: false });
    } catch (error) {
      return session.complainOf(error);
    }
    await session.settle();
    return true;
  },
};

export const length: Command = {
  name: 'length', alias: 'l', minimum: 0, maximum: 0,
  summary: 'gets the length of the current file',
  run(_args, { backend, io }) {
    io.out(`${formatQuantity(backend.size)}\n`);
    return true;
  },
};

export const info: Command = {
  name: 'info', alias: 'i', minimum: 0, maximum: 0,
  summary: 'prints information about the current file',
  async run(_args, { backend: { node }, io, image }) {
    const shown = image?.hasImplicitFilter ? node.children.get('file')!.node : node;
    io.out(`format name: ${shown.driver.name}\n`);
    if (shown.driver.kind === 'protocol' || shown.driver.protocolPrefixes !== undefined) io.out(`format name: ${shown.driver.name}\n`);
    const facts = node.facet('formatInfo');
    if (facts === undefined && !storedInFile(node)) return false;
    io.out(`cluster size: ${formatQuantity(facts?.clusterSize ?? 0)}\nvm state offset: ${formatQuantity(facts?.vmStateOffset ?? 0)}\n`);
    const specific = shown.driver.kind === 'format' ? shown.facet('formatInfo')?.specific() : undefined;
    if (specific && Object.keys(specific.data).length > 0) {
      const { dictionaryLines } = await import('../../qemu-img/info-text.js');
      io.out(`Format specific information:\n${dictionaryLines(specific.data, '    ').map((line) => `${line}\n`).join('')}`);
    }
    return true;
  },
};

/** Whether this shows a host's file as it is: of anything else there is no more to say. */
function storedInFile(node: BlockNode): boolean {
  if (node.driver.kind === 'format' && node.driver.name !== 'raw') return false;
  const below = node.children.get('file') ?? node.children.get('image');
  return below === undefined ? ['file', 'host_device'].includes(node.driver.name) : storedInFile(below.node);
}

export const alloc: Command = {
  name: 'alloc', alias: 'a', minimum: 1, maximum: 2,
  usage: 'offset [count]',
  summary: 'checks if offset is allocated in the file',
  async run(args, session) {
    const { backend, io } = session;
    const offset = parseQuantity(args[0]!);
    const count = args[1] === undefined ? 512 : parseQuantity(args[1]);
    const end = Math.max(offset, Math.min(offset + count, backend.size));
    let allocated = 0;
    try {
      for (let at = offset; at < end;) {
        const status = await backend.status(at, end - at, false);
        if (status.allocated) allocated += status.length;
        at += status.length;
      }
    } catch (error) {
      throw requestFailure('is_allocated', error, session);
    }
    io.out(`${BigInt(allocated)}/${BigInt(end - offset)} bytes allocated at offset ${formatQuantity(offset)}\n`);
    return true;
  },
};

export const map: Command = {
  name: 'map', minimum: 0, maximum: 0,
  usage: '',
  summary: 'prints the allocated areas of a file',
  async run(_args, session) {
    const { backend, io } = session;
    let start = 0;
    let state: boolean | undefined;
    const print = (end: number): void => {
      if (state === undefined || end === start) return;
      io.out(`${formatQuantity(end - start)} (0x${(end - start).toString(16)}) bytes ${state ? '    ' : 'not '}allocated at offset ${formatQuantity(start)} (0x${start.toString(16)})\n`);
      start = end;
    };
    try {
      for (let at = 0; at < backend.size;) {
        const status = await backend.status(at, backend.size - at, false);
        if (status.allocated !== state) print(at);
        state = status.allocated;
        at += status.length;
      }
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      session.complain(`Failed to get allocation status: ${strerror(error.errno)}`);
      return false;
    }
    print(backend.size);
    return true;
  },
};
