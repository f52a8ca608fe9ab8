/** The graph: opens specs into nodes, lends root edges, drains, closes. */
import { isPromise, type MaybePromise } from '../util/maybe.js';
import { BlockBackend, BlockChild } from './child.js';
import { Perm, type ImplicitReference, type NewFile, type OpenContext } from './driver.js';
import { BlockError, Errno } from './errors.js';
import { placeOf, protocolPrefix, resolvePath, resolveReference } from './filename.js';
import { FileNote } from './file-note.js';
import { denyImplicitOpens, type OpenGate } from './gate.js';
import { isJsonFilename, nestOptions, parseJsonFilename, type Options } from './key-values.js';
import { BlockNode } from './node.js';
import type { UserObject, UserObjects } from './objects.js';
import { childInheritance, coerceAll, isDictionary, mergeOptions, takeCommon, takeReferences, takeString, unknownDriver, type Inherited } from './open-options.js';
import { grantForOpening, refreshPermissions } from './permissions.js';
import { planReopen, type ReopenChange } from './reopen.js';
import type { DriverRegistry } from './registry.js';

/** A filename (plain, `prefix:…` or `json:{…}`) or a dictionary of options (nested or dotted). */
export type OpenSpec = string | Readonly<Record<string, unknown>>;

export interface OpenOptions {
  /** Format or protocol driver; without it a filename's format is probed, if the gate lets. */
  readonly driver?: string | undefined;
  readonly readOnly?: boolean;
  readonly autoReadOnly?: boolean;
  readonly noBacking?: boolean;
  readonly check?: boolean;
  readonly noIo?: boolean;
  readonly forceShare?: boolean;
  readonly cache?: { readonly direct?: boolean; readonly noFlush?: boolean };
  readonly discard?: 'ignore' | 'unmap';
  readonly detectZeroes?: 'off' | 'on' | 'unmap';
  /** Base folder reference for relative names in a dictionary (an image's own name). */
  readonly gate?: OpenGate;
  readonly signal?: AbortSignal;
}

export interface BackendOptions extends OpenOptions {
  readonly name?: string;
  /** Perm bits; default: consistent read, and write and resize unless read-only. */
  readonly take?: number;
  readonly share?: number;
  readonly writethrough?: boolean;
}

const MAX_CHAIN = 200;

export class BlockGraph {
  readonly drivers: DriverRegistry;
  readonly #gate: OpenGate;
  readonly #objects: UserObjects;
  readonly #nodes = new Map<string, BlockNode>();
  readonly #backends = new Set<BlockBackend>();
  #counter = 0;

  /** Without a gate every implicit open is denied. */
  constructor(init: { readonly drivers: DriverRegistry; readonly gate?: OpenGate; readonly objects?: UserObjects }) {
    this.drivers = init.drivers;
    this.#gate = init.gate ?? denyImplicitOpens;
    this.#objects = init.objects ?? new Map();
  }

  /** What a user created under that id. */
  object(id: string): UserObject | undefined {
    return this.#objects.get(id);
  }

  get nodes(): ReadonlyMap<string, BlockNode> {
    return this.#nodes;
  }

  get backends(): ReadonlySet<BlockBackend> {
    return this.#backends;
  }

  /**
   * Opens a spec and everything it refers to. The node is held for the caller: attach() users to it, then release() it.
   * Rejects with the layers' own errors, leaving nothing open.
   */
  async open(spec: OpenSpec, options: OpenOptions = {}): Promise<BlockNode> {
    const inherited: Inherited = {
      readOnly: options.readOnly ?? false,
      autoReadOnly: options.autoReadOnly ?? false,
      settings: {
        discard: options.discard ?? 'ignore', detectZeroes: options.detectZeroes ?? 'off', direct: options.cache?.direct ?? false,
        noFlush: options.cache?.noFlush ?? false, forceShare: options.forceShare ?? false,
      },
      mode: { noBacking: options.noBacking ?? false, check: options.check ?? false, noIo: options.noIo ?? false },
      gate: options.gate ?? this.#gate,
      signal: options.signal,
      above: [],
      protocol: false,
    };
    const node = await this.#openSpec(spec, options.driver, inherited);
    try {
      refreshPermissions(node);
    } catch (error) {
      await this.release(node).catch(() => undefined);
      throw error;
    }
    return node;
  }

  /** open() and attach() in one; the backend owns the node. */
  async openBackend(spec: OpenSpec, options: BackendOptions = {}): Promise<BlockBackend> {
    const node = await this.open(spec, options);
    try {
      const write = Perm.WRITE | Perm.RESIZE;
      const take = options.take ?? ((options.noIo ? 0 : Perm.CONSISTENT_READ) | (node.readOnly ? 0 : write));
      const share = options.share ?? ((take & Perm.RESIZE) !== 0 ? Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED : Perm.ALL);
      const backend = this.attach(node, { name: options.name ?? '', take, share: node.settings.forceShare ? Perm.ALL : share });
      backend.writethrough = options.writethrough ?? false;
      return backend;
    } finally {
      await this.release(node);
    }
  }

  /** Lends a root edge. Throws PERMISSION_CONFLICT where another user's edge excludes it. */
  attach(node: BlockNode, options: { readonly name?: string; readonly take: number; readonly share: number }): BlockBackend {
    const backend = new BlockBackend(options.name ?? '', node, (given) => this.#detachBackend(given));
    backend.take = options.take;
    backend.share = options.share;
    node.parents.add(backend);
    try {
      refreshPermissions(node);
    } catch (error) {
      node.parents.delete(backend);
      throw error;
    }
    this.#backends.add(backend);
    return backend;
  }

  /** Gives up the hold that open() returned the node with; closes it if nobody else uses it. */
  async release(node: BlockNode): Promise<void> {
    node.holds--;
    await this.#closeIfUnused(node);
  }

  /** Runs `change` while no request is in flight on any root edge above the nodes and their background work is stopped. */
  async drained<T>(nodes: readonly BlockNode[], change: () => Promise<T> | T): Promise<T> {
    const edges = new Set<BlockBackend>();
    const collect = (node: BlockNode): void => {
      for (const edge of node.parents) {
        if (edge instanceof BlockBackend) edges.add(edge);
        else if (edge.parent) collect(edge.parent);
      }
    };
    nodes.forEach(collect);
    const below = new Set<BlockNode>();
    const descend = (node: BlockNode): void => {
      if (below.has(node)) return;
      below.add(node);
      for (const child of node.children.values()) descend(child.node);
    };
    nodes.forEach(descend);
    const quiesced: BlockBackend[] = [];
    const stopped: BlockNode[] = [];
    try {
      const idle: Promise<void>[] = [];
      for (const edge of edges) {
        quiesced.push(edge);
        const done = edge.quiesce();
        if (isPromise(done)) idle.push(done);
      }
      await Promise.all(idle);
      for (const node of below) {
        stopped.push(node);
        const done = node.ops.drainBegin();
        if (isPromise(done)) await done;
      }
      return await change();
    } finally {
      for (const node of stopped) node.ops.drainEnd();
      for (const edge of quiesced) edge.resume();
    }
  }

  /**
   * Changes access and options of a node, and of the files it owns, in place. A layer that cannot write stays read-only, and so do its
   * files. Rejects with nothing changed where an option cannot change; a driver that fails half-way may leave the nodes above as they were.
   */
  async reopen(node: BlockNode, change: ReopenChange): Promise<void> {
    const steps = planReopen(node, change);
    await this.drained([node], async () => {
      for (const { node: each, readOnly = each.readOnly, settings, values } of steps) {
        await this.#reopenTree(each, readOnly);
        if (Object.keys(values).length > 0) {
          await each.ops.reopen?.({ readOnly, options: values });
          Object.assign(each, { explicitOptions: { ...each.explicitOptions, ...values } });
        }
        each.settings = { ...each.settings, ...settings };
      }
    });
    refreshPermissions(node);
  }

  /** Closes what is still open: all backends, then nodes only held. Rejects with the first failure after trying all. */
  async close(): Promise<void> {
    const failures: unknown[] = [];
    for (const backend of [...this.#backends]) await backend.close().catch((error: unknown) => failures.push(error));
    for (const node of [...this.#nodes.values()]) {
      if (node.parents.size > 0 || !this.#nodes.has(node.name)) continue;
      node.holds = 0;
      await this.#closeIfUnused(node).catch((error: unknown) => failures.push(error));
    }
    if (failures.length > 0) throw failures[0];
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** The dictionary a spec stands for, without opening anything. */
  toOptions(spec: OpenSpec, driver?: string): Record<string, unknown> {
    let options: Record<string, unknown>;
    if (typeof spec === 'string') {
      if (isJsonFilename(spec)) options = nestOptions(parseJsonFilename(spec));
      else {
        const protocol = this.#protocolOptions(spec);
        const named = driver === undefined ? undefined : this.drivers.get(driver);
        if (driver !== undefined && named === undefined) throw unknownDriver(driver);
        if (named?.name === protocol['driver']) return protocol;
        if (named?.kind === 'protocol' || named?.parseFilename) return { ...(named.parseFilename?.(spec) ?? { filename: spec }), driver: named.name };
        options = { file: protocol };
      }
    } else {
      options = nestOptions(spec as Options);
    }
    if (driver !== undefined) {
      if (options['driver'] !== undefined && options['driver'] !== driver) throw new BlockError('INVALID_ARGUMENT', 'Driver specified twice');
      options['driver'] = driver;
    }
    return options;
  }

  #protocolOptions(filename: string): Record<string, unknown> {
    const prefix = protocolPrefix(filename);
    if (prefix === undefined) return { driver: this.drivers.byPath(filename)?.name ?? 'file', filename };
    const driver = this.drivers.byPrefix(prefix);
    if (!driver) throw new BlockError('INVALID_ARGUMENT', `Unknown protocol '${prefix}'`, { filename });
    return { driver: driver.name, ...(driver.parseFilename ? driver.parseFilename(filename) : { filename: filename.slice(prefix.length + 1) }) };
  }

  /** The options a name has with those given beside it: options it says itself give way. Without a driver the format is guessed. */
  withFilename(filename: string, options: Options): Record<string, unknown> {
    const given = nestOptions(options);
    if (isJsonFilename(filename)) return mergeOptions(this.toOptions(filename), given);
    const driver = typeof given['driver'] === 'string' ? this.drivers.get(given['driver']) : undefined;
    if (driver?.parseFilename) return mergeOptions(this.#besideChildren(driver.parseFilename(filename), given), given);
    if (driver !== undefined && 'filename' in driver.options) return { ...given, filename };
    const { file = {} } = given;
    if (!isDictionary(file) || 'filename' in file) throw new BlockError('INVALID_ARGUMENT', "Can't specify 'file' and 'filename' options at the same time");
    return { ...given, file: 'driver' in file ? this.withFilename(filename, file) : mergeOptions(this.#protocolOptions(filename), file) };
  }

  /** Names that a filename has for children are placed beside the options given for them. */
  #besideChildren(named: Record<string, unknown>, given: Record<string, unknown>): Record<string, unknown> {
    return Object.fromEntries(Object.entries(named).map(([child, value]) => {
      const [options, filename] = [given[child], isDictionary(value) ? value['filename'] : undefined];
      return [child, isDictionary(options) && typeof filename === 'string' ? this.withFilename(filename, options as Options) : value];
    }));
  }

  async #openSpec(spec: OpenSpec, driver: string | undefined, inherited: Inherited): Promise<BlockNode> {
    const options = this.toOptions(spec, driver);
    const { filename, ...rest } = options;
    const isFile = inherited.protocol && typeof filename === 'string' && rest['driver'] === undefined && rest['file'] === undefined;
    return this.#openOptions(isFile ? mergeOptions(this.#protocolOptions(filename), rest) : options, inherited);
  }

  async #openOptions(given: Record<string, unknown>, inherited: Inherited): Promise<BlockNode> {
    const options = { ...given };
    const name = takeString(options, 'node-name') ?? `#block${String(this.#counter++).padStart(3, '0')}`;
    if (!/^(#block|[A-Za-z][A-Za-z0-9._-]*$)/.test(name)) throw new BlockError('INVALID_ARGUMENT', `Invalid node-name: '${name}'`);
    if (this.#nodes.has(name)) throw new BlockError('ALREADY_EXISTS', `Duplicate nodes with node-name='${name}'`);
    const own = takeCommon(options, inherited);
    if (own.settings.forceShare && !own.readOnly) throw new BlockError('INVALID_ARGUMENT', 'force-share=on can only be used with read-only images');
    let driverName = takeString(options, 'driver');
    const opened: BlockChild[] = [];
    let node: BlockNode | undefined;
    let ops;
    try {
      let probed = false;
      if (driverName === undefined) {
        if (options['file'] === undefined) throw new BlockError('INVALID_ARGUMENT', 'Must specify either driver or file');
        const file = await this.#openChildNode('file', options['file'], { ...childInheritance(own), protocol: true });
        delete options['file'];
        opened.push(new BlockChild('file', 'image', file));
        driverName = await this.#probe(file, own);
        probed = true;
      }
      const driver = this.drivers.get(driverName);
      if (!driver) throw unknownDriver(driverName);
      node = new BlockNode({
        name, driver, settings: own.settings, readOnly: own.readOnly, probed, noIo: own.mode.noIo, explicitOptions: {},
      });
      for (const [childName, { role, optional, many, probed: mayProbe }] of Object.entries(driver.children)) {
        const early = opened.find((edge) => edge.name === childName);
        if (early) {
          this.#link(node, childName, role, early.node);
          early.node.holds--;
          opened.splice(opened.indexOf(early), 1);
          continue;
        }
        const reference = options[childName];
        if (reference === undefined || reference === null || role === 'cow') {
          if (reference === undefined && !optional && role !== 'cow') {
            throw new BlockError('INVALID_ARGUMENT', driver.kind === 'format' || driver.kind === 'filter'
              ? `A block device must be specified for "${childName}"` : `Parameter '${childName}' is missing`);
          }
          continue;
        }
        if (typeof reference === 'string' && Object.keys(options).some((key) => key.startsWith(`${childName}.`))) {
          throw new BlockError('INVALID_ARGUMENT', 'Cannot reference an existing block device with additional options or a new filename');
        }
        delete options[childName];
        if (own.mode.noIo && role === 'data' && optional) continue;
        for (const [place, each] of many ? membersOf(childName, reference) : [[childName, reference] as const]) {
          const childNode = await this.#openChildNode(place, each, { ...childInheritance(own), protocol: !mayProbe });
          this.#link(node, place, role, childNode);
          childNode.holds--;
        }
      }
      const references = takeReferences(options, driver);
      const { values, explicit } = coerceAll(driver, options, own);
      Object.assign(node, { explicitOptions: explicit });
      grantForOpening(node);
      const result = driver.open(this.#context(node, values, references, { ...own, probed }));
      ops = isPromise(result) ? await result : result;
    } catch (error) {
      for (const edge of opened) await this.release(edge.node).catch(() => undefined);
      if (node) await this.#dropChildren(node).catch(() => undefined);
      throw error;
    }
    node.ops = ops;
    node.readOnly = node.readOnly || !ops.capabilities.write;
    ops.facet('bitmaps')?.attach?.(node.bitmaps);
    node.holds = 1;
    this.#nodes.set(name, node);
    return node;
  }

  #context(node: BlockNode, options: object, references: Record<string, unknown>, inherited: Inherited & { probed: boolean }): OpenContext<object> {
    return {
      nodeName: node.name,
      options,
      readOnly: node.readOnly,
      mode: { ...inherited.mode, probed: inherited.probed },
      ...(inherited.signal && { signal: inherited.signal }),
      child: (name) => node.children.get(name),
      implicitChild: (name, reference) => this.#openImplicit(node, name, reference, references, inherited),
      newFiles: (wanted, use, signal) => this.#newFiles(node, wanted, use, { references, inherited, signal }),
      debugPoint: (event) => node.children.get('file')?.node.ops.debugEvent?.(event),
      object: (id) => this.object(id),
      probe: (head) => this.#guess(head, ''),
      warn: (message) => this.onWarning(message),
      report: (line, kind) => this.onReport(line, kind),
    };
  }

  /** Called with one-line warnings of drivers; a face may replace it. */
  onWarning: (message: string) => void = () => undefined;
  /** Called with lines of drivers that are no warnings; a face may replace it. */
  onReport: (line: string, kind: 'note' | 'error') => void = () => undefined;

  async #openImplicit(node: BlockNode, name: string, reference: ImplicitReference, references: Record<string, unknown>, inherited: Inherited): Promise<BlockChild | undefined> {
    const given = references[name];
    if (reference.kind === 'backing' && inherited.mode.noBacking) return undefined;
    if (given === '') this.onWarning(`Use of "${name}": "" is deprecated; use "${name}": null instead`);
    if (given === null || given === '') {
      node.detached = reference.filename !== '';
      return undefined;
    }
    if (given === undefined && reference.filename === '') return undefined;
    const file = node.children.get('file')?.node;
    const from = file === undefined ? '' : placeOf(file) ?? file.filename;
    const childSettings: Inherited = {
      ...inherited,
      above: [...inherited.above, from],
      protocol: reference.role !== 'cow',
      readOnly: reference.role === 'cow' || reference.readOnly === true || inherited.readOnly,
      settings: { ...inherited.settings, detectZeroes: 'off' },
    };
    const child = await this.#openReferenced(node, name, reference, given, from, childSettings).catch((error: unknown) => {
      if (reference.kind !== 'backing' || !(error instanceof BlockError)) throw error;
      const missing = error.code === 'NOT_FOUND' && error.context.fault === undefined;
      throw new BlockError(error.code, `Could not open backing file: ${error.message}`, {
        ...error.context, ...(missing && { fault: 'parent-missing' }),
      }, error);
    });
    const edge = this.#link(node, name, reference.role, child);
    child.holds--;
    return edge;
  }

  async #newFiles(
    node: BlockNode, wanted: readonly NewFile[], use: (children: readonly BlockChild[]) => MaybePromise<void>,
    { references, inherited, signal }: { references: Record<string, unknown>; inherited: Inherited; signal: AbortSignal | undefined },
  ): Promise<void> {
    const file = node.children.get('file')!.node;
    const image = placeOf(file) ?? file.filename;
    const added = wanted.map(({ reference }) => resolved(reference, image));
    const note = await FileNote.write(this, { image, added, removed: [] });
    const children: BlockChild[] = [];
    try {
      for (const [index, { name, reference }] of wanted.entries()) {
        signal?.throwIfAborted();
        await note.create(added[index]!);
        children.push((await this.#openImplicit(node, name, reference, references, inherited))!);
      }
      refreshPermissions(node);
      await use(children);
    } catch (error) {
      for (const edge of children) await this.#dropChild(node, edge).catch(() => undefined);
      await note.undo();
      throw error;
    }
    await note.remove();
  }

  /** Opens what an image's reference and the user's options for it come to together; the node is held for the caller. */
  async #openReferenced(node: BlockNode, name: string, reference: ImplicitReference, given: unknown, from: string, settings: Inherited): Promise<BlockNode> {
    if (typeof given === 'string') {
      const named = this.#byName(given);
      named.holds++;
      return named;
    }
    const extra = isDictionary(given) ? given : {};
    if (extra['file'] !== undefined || reference.filename === '' || (settings.protocol && extra['filename'] !== undefined)) return this.#openSpec(extra, undefined, settings);
    const filename = resolved(reference, from);
    await this.#ask(settings.gate, { kind: reference.kind, filename, from, ...(reference.format !== undefined && { format: reference.format }) });
    if (settings.above.includes(filename)) {
      throw new BlockError('INVALID_ARGUMENT', `Backing file '${filename}' creates an infinite loop.`, { filename, errno: Errno.ELOOP });
    }
    if (settings.above.length > MAX_CHAIN) throw new BlockError('INVALID_ARGUMENT', `Backing chain is longer than ${MAX_CHAIN} images`, { filename, errno: Errno.ELOOP });
    const driver = takeString({ ...extra }, 'driver') ?? reference.format;
    const options = settings.protocol && driver === undefined ? this.#protocolOptions(filename) : this.toOptions(filename, driver);
    const child = await this.#openSpec({ ...options, ...extra }, undefined, settings);
    if (!isDictionary(given)) node.implicit.add(name);
    return child;
  }

  async #openChildNode(name: string, reference: unknown, inherited: Inherited): Promise<BlockNode> {
    if (typeof reference === 'string') {
      const node = this.#byName(reference);
      node.holds++;
      return node;
    }
    if (!isDictionary(reference)) throw new BlockError('INVALID_ARGUMENT', `A block device must be specified for "${name}"`);
    return this.#openSpec(reference, undefined, inherited);
  }

  #byName(name: string): BlockNode {
    const node = this.#nodes.get(name);
    if (!node) throw new BlockError('NOT_FOUND', `Cannot find device='${name}' nor node-name='${name}'`);
    return node;
  }

  #link(node: BlockNode, name: string, role: BlockChild['role'], target: BlockNode): BlockChild {
    const edge = new BlockChild(name, role, target, node);
    node.children.set(name, edge);
    target.parents.add(edge);
    return edge;
  }

  async #probe(file: BlockNode, inherited: Inherited): Promise<string> {
    const filename = file.filename;
    const from = inherited.above[inherited.above.length - 1];
    await this.#ask(inherited.gate, { kind: 'probe', filename, ...(from !== undefined && { from }) });
    const head = new Uint8Array(2048);
    const result = file.read(0, head, 0);
    if (isPromise(result)) await result;
    // as the peer sees it: whole sectors, so that the start of a file cut short is still known
    return this.#guess(head.subarray(0, Math.min(head.length, Math.ceil(file.size / 512) * 512)), filename);
  }

  #guess(head: Uint8Array, filename: string): string {
    let best = 'raw';
    let score = 0;
    for (const driver of this.drivers) {
      const found = driver.probe?.(head, filename) ?? 0;
      if (found > score) {
        score = found;
        best = driver.name;
      }
    }
    return best;
  }

  async #ask(gate: OpenGate, request: Parameters<OpenGate>[0]): Promise<void> {
    const answer = await gate(request);
    if (answer === true) return;
    const what = request.kind === 'probe'
      ? `Guessing the format of '${request.filename}' is not allowed`
      : `Opening ${request.kind === 'backing' ? 'backing file' : request.kind} '${request.filename}', which ${request.from === undefined ? 'an image' : `'${request.from}'`} refers to, is not allowed`;
    throw new BlockError('GATE_DENIED', typeof answer === 'string' ? `${what}: ${answer}` : what, { filename: request.filename });
  }

  async #reopenTree(node: BlockNode, readOnly: boolean): Promise<void> {
    if (node.readOnly === readOnly) return;
    const owned = [...node.children.values()].filter((edge) => edge.role !== 'cow' && edge.node.readOnly === node.readOnly).map((edge) => edge.node);
    try {
      if (!readOnly) {
        for (const child of owned) await this.#reopenTree(child, false);
        // the layer may write at once
        node.readOnly = false;
        refreshPermissions(node);
      }
      await node.ops.reopen?.({ readOnly });
    } catch (error) {
      node.readOnly = !readOnly;
      if (!readOnly) {
        for (const child of owned) await this.#reopenTree(child, true).catch(() => undefined);
        refreshPermissions(node);
      }
      throw error;
    }
    node.readOnly = readOnly || !node.ops.capabilities.write;
    if (node.readOnly) for (const child of owned) await this.#reopenTree(child, true);
  }

  async #detachBackend(backend: BlockBackend): Promise<void> {
    const { node } = backend;
    let failure: unknown;
    try {
      if (!node.readOnly) await node.flush();
    } catch (error) {
      failure = error;
    }
    node.parents.delete(backend);
    this.#backends.delete(backend);
    await this.#closeIfUnused(node);
    if (failure !== undefined) throw failure;
  }

  async #closeIfUnused(node: BlockNode): Promise<void> {
    if (node.holds > 0 || node.parents.size > 0) {
      refreshPermissions(node);
      return;
    }
    if (!this.#nodes.delete(node.name)) return;
    let failure: unknown;
    try {
      await node.ops.close();
    } catch (error) {
      failure = error;
    }
    await this.#dropChildren(node);
    if (failure !== undefined) throw failure;
  }

  async #dropChildren(node: BlockNode): Promise<void> {
    for (const edge of [...node.children.values()]) await this.#dropChild(node, edge);
  }

  async #dropChild(node: BlockNode, edge: BlockChild): Promise<void> {
    node.children.delete(edge.name);
    edge.node.parents.delete(edge);
    await this.#closeIfUnused(edge.node);
  }
}

/** What a name found in `image` stands for; that of a data file, alone of all, does so where the program runs. */
function resolved({ kind, filename, isPath }: ImplicitReference, image: string): string {
  if (kind === 'data-file') return filename;
  return isPath === true ? resolvePath(filename, image) : resolveReference(filename, image);
}

/** Several children under one name: `children.0`, `children.1` … */
function membersOf(name: string, references: unknown): (readonly [string, unknown])[] {
  if (typeof references !== 'object' || references === null) throw new BlockError('INVALID_ARGUMENT', `Parameter '${name}' expects a list`);
  return Object.entries(references).map(([index, reference]) => {
    if (!/^\d+$/.test(index)) throw new BlockError('INVALID_ARGUMENT', `Parameter '${name}' expects a list`);
    return [`${name}.${index}`, reference] as const;
  });
}
