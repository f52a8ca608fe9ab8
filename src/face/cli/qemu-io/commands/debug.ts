/** Breakpoints in requests, by way of a blkdebug layer; and what zoned devices would do. */
import type { BlockNode } from '../../../../block/node.js';
import { BlockError, Errno, strerror } from '../../../../block/errors.js';
import type { Facets } from '../../../../block/facets.js';
import type { Command, Session } from '../command.js';
import { parseQuantity } from '../values.js';

/** The blkdebug layer nearest to the guest, on the way to where the bytes lie. */
function blkdebugOf({ children, ops }: BlockNode): Facets['blkdebug'] | undefined {
  const below = children.get('file') ?? children.get('image');
  return ops.facet('blkdebug') ?? (below && blkdebugOf(below.node));
}

function attempt({ io, backend }: Session, complaint: string, action: (facet: Facets['blkdebug']) => void): boolean {
  const facet = blkdebugOf(backend.node);
  let errno: number | undefined = Errno.ENOTSUP;
  try {
    if (facet !== undefined) {
      action(facet);
      return true;
    }
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    errno = error.errno;
  }
  io.out(`${complaint}: ${strerror(errno)}\n`);
  return false;
}

export const setBreak: Command = {
  name: 'break', minimum: 2, maximum: 2,
  usage: 'event tag',
  summary: 'sets a breakpoint on event and tags the stopped request as tag',
  run: ([event, tag], session) => attempt(session, 'Could not set breakpoint', (facet) => {
    facet.breakpoint(event!, tag!, (line) => session.io.out(`${line}\n`));
  }),
};

export const removeBreak: Command = {
  name: 'remove_break', minimum: 1, maximum: 1,
  usage: 'tag',
  summary: 'remove a breakpoint by tag',
  run: ([tag], session) => attempt(session, `Could not remove breakpoint ${tag}`, (facet) => facet.removeBreakpoint(tag!)),
};

export const resume: Command = {
  name: 'resume', minimum: 1, maximum: 1,
  usage: 'tag',
  summary: 'resumes the request tagged as tag',
  run: ([tag], session) => attempt(session, 'Could not resume request', (facet) => facet.resume(tag!)),
};

export const waitBreak: Command = {
  name: 'wait_break', minimum: 1, maximum: 1,
  usage: 'tag',
  summary: 'waits for the suspension of a request',
  async run([tag], { backend }) {
    await blkdebugOf(backend.node)?.whenSuspended(tag!);
    return true;
  },
};

/** No driver has zones; arguments are checked as for one that had. */
function zoneCommand(name: string, alias: string, usage: string, summary: string, maximum = 2): Command {
  return {
    name, alias, minimum: maximum === 2 ? 2 : 3, maximum, usage, summary,
    run(args, { io }) {
      args.forEach(parseQuantity);
      io.out(`${name.replace('_', ' ')} failed: ${strerror(Errno.ENOTSUP)}\n`);
      return false;
    },
  };
}

export const zoneCommands: readonly Command[] = [
  zoneCommand('zone_append', 'zap', 'offset len [len..]', 'append write a number of bytes at a specified offset', 4),
  zoneCommand('zone_close', 'zc', 'offset len', 'close a range of zones in zone block device'),
  zoneCommand('zone_finish', 'zf', 'offset len', 'finish a range of zones in zone block device'),
  zoneCommand('zone_open', 'zo', 'offset len', 'explicit open a range of zones in zone block device'),
  zoneCommand('zone_report', 'zrp', 'offset number', 'report zone information'),
  zoneCommand('zone_reset', 'zrs', 'offset len', 'reset a zone write pointer in zone block device'),
];
