/** Drivers as QEMU's tools know them: without what only vdisk can do. */
import type { BlockDriver, BlockOps, Capabilities, PeerLack } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { CheckFacet, Facets } from '../../block/facets.js';
import type { OptionValue } from '../../block/options.js';
import { andThen } from '../../util/maybe.js';

/** The driver without options and abilities that QEMU lacks. */
export function asPeersKnow(driver: BlockDriver): BlockDriver {
  const lacks = new Set<PeerLack>(driver.beyondPeer);
  const fields = Object.entries(driver.createOptions ?? {});
  const known = fields.filter(([, { beyondPeer }]) => beyondPeer !== true);
  if (lacks.size === 0 && known.length === fields.length) return driver;
  const { measure, open, ...rest } = driver;
  return {
    ...rest,
    ...(driver.createOptions && { createOptions: Object.fromEntries(known) }),
    checkCreate: (options, filename) => {
      refuseUnknown(driver, options);
      return driver.checkCreate?.(options, filename);
    },
    ...(measure && !lacks.has('measure') && { measure }),
    open: (context) => {
      const mode = { ...context.mode, check: context.mode.check && !lacks.has('check'), refuseLog: lacks.has('log-overlay'), plainCompressed: lacks.has('encrypted-only') };
      return andThen(open.call(driver, { ...context, mode }), (ops) => restricted(ops, lacks));
    },
  };
}

function restricted(ops: BlockOps, lacks: ReadonlySet<PeerLack>): BlockOps {
  if (lacks.has('resize')) {
    const fixed = new WeakMap<Capabilities, Capabilities>();
    const prototype = Object.getPrototypeOf(ops) as BlockOps;
    Object.defineProperty(ops, 'capabilities', {
      get: () => {
        const own = Reflect.get(prototype, 'capabilities', ops);
        if (!fixed.has(own)) fixed.set(own, { ...own, resize: 'none' });
        return fixed.get(own);
      },
    });
  }
  if (lacks.has('rebase')) {
    const below = ops.facet.bind(ops);
    ops.facet = <K extends keyof Facets>(name: K): Facets[K] | undefined => (
      name === 'backing' ? fixedBacking(below('backing')) as Facets[K] | undefined : below(name));
  }
  if (lacks.has('dirty-flag')) {
    const facet = ops.facet.bind(ops);
    ops.facet = <K extends keyof Facets>(name: K): Facets[K] | undefined => (
      name === 'formatInfo' ? { ...facet('formatInfo')!, dirty: false } as Facets[K] : facet(name));
  }
  if (lacks.has('check') || lacks.has('repair') || lacks.has('thorough-check')) {
    const facet = ops.facet.bind(ops);
    ops.facet = <K extends keyof Facets>(name: K): Facets[K] | undefined => (
      name === 'check' ? peerCheck(facet('check'), lacks) as Facets[K] | undefined : facet(name));
  }
  return ops;
}

/** It can be told, and not changed. */
function fixedBacking(backing: Facets['backing'] | undefined): Facets['backing'] | undefined {
  if (backing?.filename === undefined) return undefined;
  const { filename, format } = backing;
  return { filename, format, change: () => Promise.reject(systemError(Errno.ENOTSUP)) };
}

/** Refuses values of create options that QEMU does not know, in its words. */
function refuseUnknown(driver: BlockDriver, options: Readonly<Record<string, OptionValue>>): void {
  for (const [key, { beyondPeerValues }] of Object.entries(driver.createOptions ?? {})) {
    const value = options[key];
    if (typeof value === 'string' && beyondPeerValues?.includes(value)) throw new BlockError('INVALID_ARGUMENT', `invalid parameter value: ${value}`, { errno: Errno.EINVAL });
  }
}

function peerCheck(facet: CheckFacet | undefined, lacks: ReadonlySet<PeerLack>): CheckFacet | undefined {
  if (facet === undefined || lacks.has('check')) return undefined;
  return {
    check: (options) => options.repair !== 'none' && lacks.has('repair')
      ? Promise.reject(new BlockError('NOT_SUPPORTED', 'Repairing is not supported'))
      : facet.check({ ...options, asPeer: lacks.has('thorough-check') }),
  };
}
