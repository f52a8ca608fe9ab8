/** What blkdebug's rules make of events and requests: no I/O. */
import type { BlockError} from '../../block/errors.js';
import { Errno, systemError } from '../../block/errors.js';
import type { BlkdebugFacet } from '../../block/facets.js';
import type { InjectRule, Rules } from './config.js';
import { events, type RequestType } from './events.js';

interface Breakpoint { readonly event: string; readonly tag: string; readonly report: ((line: string) => void) | undefined }
interface Held { readonly tag: string; resume(): void }

/**
 * A small state machine. An event that matches inject rules makes them the active ones, in place of those before; active rules
 * fail requests until another event replaces them or, with `once`, until they have failed one.
 */
export class DebugScript implements BlkdebugFacet {
  #inject: InjectRule[];
  readonly #rules: Rules;
  #active: InjectRule[] = [];
  #state = 1;
  #breakpoints: Breakpoint[] = [];
  #held: Held[] = [];
  #waiting: { readonly tag: string; readonly wake: () => void }[] = [];

  constructor(rules: Rules) {
    this.#rules = rules;
    this.#inject = rules.inject;
    void this.event('none');
  }

  /** Takes note of an event; a promise where a breakpoint holds the caller. */
  event(event: string): Promise<void> | undefined {
    const before = this.#state;
    const counts = (rule: { readonly event: string; readonly state: number }): boolean =>
      rule.event === event && (rule.state === 0 || rule.state === before);
    const activated = this.#inject.filter(counts);
    if (activated.length > 0) this.#active = activated;
    for (const rule of this.#rules.state) if (counts(rule)) this.#state = rule.newState;
    const hit = this.#breakpoints.filter((each) => each.event === event);
    if (hit.length === 0) return undefined;
    this.#breakpoints = this.#breakpoints.filter((each) => each.event !== event);
    return Promise.all(hit.map((each) => this.#hold(each))).then(() => undefined);
  }

  /** The error a request is to fail with; undefined: it goes on. */
  check(type: RequestType, offset: number, length: number): { readonly error: BlockError; readonly immediately: boolean } | undefined {
    const rule = this.#active.find((each) =>
      (each.requestType === undefined ? type !== 'block-status' : each.requestType === type)
      && (each.offset === undefined || (each.offset >= offset && each.offset < offset + length)));
    if (rule === undefined || rule.errno === 0) return undefined;
    if (rule.once) {
      this.#active = this.#active.filter((each) => each !== rule);
      this.#inject = this.#inject.filter((each) => each !== rule);
    }
    return { error: systemError(rule.errno, { driver: 'blkdebug', op: type, offset, length }), immediately: rule.immediately };
  }

  breakpoint(event: string, tag: string, report?: (line: string) => void): void {
    if (!events.has(event)) throw systemError(Errno.ENOENT);
    this.#breakpoints.push({ event, tag, report });
  }

  removeBreakpoint(tag: string): void {
    const before = this.#breakpoints.length;
    this.#breakpoints = this.#breakpoints.filter((each) => each.tag !== tag);
    const held = this.#held.filter((each) => each.tag === tag);
    this.#held = this.#held.filter((each) => each.tag !== tag);
    for (const request of held) request.resume();
    if (this.#breakpoints.length === before) throw systemError(Errno.ENOENT);
  }

  resume(tag: string): void {
    const request = this.#held.find((each) => each.tag === tag);
    if (request === undefined) throw systemError(Errno.ENOENT);
    this.#held = this.#held.filter((each) => each !== request);
    request.resume();
  }

  isSuspended(tag: string): boolean {
    return this.#held.some((each) => each.tag === tag);
  }

  whenSuspended(tag: string): Promise<void> {
    if (this.isSuspended(tag)) return Promise.resolve();
    return new Promise((wake) => this.#waiting.push({ tag, wake }));
  }

  #hold({ tag, report }: Breakpoint): Promise<void> {
    report?.(`blkdebug: Suspended request '${tag}'`);
    return new Promise((go) => {
      this.#held.push({
        tag,
        resume: () => {
          report?.(`blkdebug: Resuming request '${tag}'`);
          go();
        },
      });
      for (const { wake } of this.#waiting.filter((each) => each.tag === tag)) wake();
      this.#waiting = this.#waiting.filter((each) => each.tag !== tag);
    });
  }
}
