/** The library: what is there before any connection. */
import { BlockGraph } from '../../block/graph.js';
import type { OpenGate } from '../../block/gate.js';
import type { UserObject } from '../../block/objects.js';
import type { DriverRegistry } from '../../block/registry.js';
import { createRegistry } from '../../drivers.js';
import { removeLeftovers } from '../../image/files.js';
import { numberSetting, readConfiguration, type Configuration } from './config.js';
import { Connection } from './connection.js';
import { ConnectParameters, type ConnectParams } from './connect-params.js';
import { TRANSPORT_MODES } from './constants.js';
import type { LibraryContext } from './context.js';
import { guarded, VixError } from './errors.js';
import { Journal } from './journal.js';
import { Logger, withLogFile, type LogFunctions } from './logging.js';
import type { ResolveParent } from './opening.js';
import { chainPolicy } from './policy.js';
import { credentialsObject, parseTransportModes, usableModes } from './transports.js';

export interface DiskLibOptions extends LogFunctions {
  /** Settings of a file: see {@link readConfiguration}. */
  readonly configFile?: string | undefined;
  /** Where VDDK finds its own files; there are none here, the name is kept. */
  readonly libDir?: string | undefined;
  /** Asked where a parent lies. Its answer is opened wherever that is. Beyond VDDK. */
  readonly resolveParent?: ResolveParent | undefined;
  /** Parents in these folders may be opened, too, besides those in the folder of the disk that names them. Beyond VDDK. */
  readonly parentFolders?: readonly string[] | undefined;
  /** Asked about files that disks name and the policy does not let open: see {@link chainPolicy}. Beyond VDDK. */
  readonly gate?: OpenGate | undefined;
  /** Folder with `ca-cert.pem`, and `client-cert.pem` and `client-key.pem` where servers ask for them, for nbdssl. Beyond VDDK. */
  readonly tlsDirectory?: string | undefined;
  /** What reads and writes formats and files, in place of the engine's `createRegistry()`: for tests, or files of another kind. Beyond VDDK. */
  readonly drivers?: DriverRegistry | undefined;
}

export interface ConnectOptions {
  /** Nothing can be written over this connection. */
  readonly readOnly?: boolean | undefined;
  /** Disks are shown as they were then. */
  readonly snapshotRef?: string | null | undefined;
  /** Names in order of preference, separated by colons; absent: all. */
  readonly transportModes?: string | null | undefined;
}

export interface CleanupResult {
  readonly removed: readonly string[];
  /** In use, or not to be removed. */
  readonly remaining: readonly string[];
}

const longestIdentity = 50;

/** Each instance stands for itself. The C-named functions use one of the process. */
export class DiskLib {
  readonly libDir: string | undefined;
  readonly configuration: Configuration;
  readonly #context: LibraryContext;
  readonly #objects = new Map<string, UserObject>();
  readonly #connections = new Set<Connection>();
  readonly #tlsDirectory: string | undefined;
  #counter = 0;
  #open = true;

  private constructor(options: DiskLibOptions, configuration: Configuration, logger: Logger) {
    this.libDir = options.libDir;
    this.configuration = configuration;
    this.#tlsDirectory = options.tlsDirectory;
    const gate = chainPolicy(options.parentFolders ?? [], options.gate);
    const graph = new BlockGraph({ drivers: options.drivers ?? createRegistry(), gate, objects: this.#objects });
    graph.onWarning = (message) => logger.warn(message, 'engine');
    graph.onReport = (line) => logger.warn(line, 'engine');
    this.#context = { graph, gate, logger, resolveParent: options.resolveParent, journal: new Journal(configuration.get('tmpDirectory')) };
  }

  /**
   * VixDiskLib_InitEx, since VDDK 1.1.
   * @throws VixError VIX_E_FILE_NOT_FOUND and VIX_E_INVALID_ARG for the configuration file
   */
  static async init(options: DiskLibOptions = {}): Promise<DiskLib> {
    const warnings: string[] = [];
    const configuration = options.configFile === undefined ? new Map<string, string>() : await readConfiguration(options.configFile, (message) => warnings.push(message));
    return guarded(configuration.get('log.fileName'), () => {
      const functions = withLogFile(options, configuration.get('log.fileName'), numberSetting(configuration, 'log.fileLevel'));
      const logger = new Logger(functions, numberSetting(configuration, 'vixDiskLib.transport.LogLevel'));
      for (const message of warnings) logger.warn(message);
      return new DiskLib(options, configuration, logger);
    });
  }

  /** All that VixDiskLib knows, in the order they are tried. VixDiskLib_ListTransportModes, since VDDK 5.0. */
  get transportModes(): string {
    return TRANSPORT_MODES.join(':');
  }

  /**
   * Without parameters, or without a `serverName` in them, to this host. VixDiskLib_Connect and VixDiskLib_ConnectEx, since VDDK 1.0.
   * Servers are not called before a disk is opened.
   * @throws VixError VIX_E_INVALID_ARG (also for a snapshotRef without a server), VIX_E_INVALID_HOSTNAME_SPECIFICATION;
   * VIX_E_NOT_SUPPORTED for san and hotadd alone
   */
  async connect(params?: ConnectParams | null, options: ConnectOptions = {}): Promise<Connection> {
    this.#assertOpen();
    const checked = params ? new ConnectParameters(params) : undefined;
    const remote = checked?.serverName !== undefined;
    if (!remote && options.snapshotRef) throw new VixError('VIX_E_INVALID_ARG', 'only servers have snapshots by reference; open the redo log below');
    const wanted = parseTransportModes(options.transportModes);
    const usable = usableModes(wanted, remote);
    // what was encrypted to a certain server by choice does not go unencrypted to any other by default
    const modes = checked?.thumbPrint !== undefined && !options.transportModes ? usable.filter((mode) => mode !== 'nbd') : usable;
    const credentials = `vixdisklib-${++this.#counter}`;
    this.#objects.set(credentials, credentialsObject(credentials, checked?.thumbPrint, this.#tlsDirectory));
    const connection = new Connection({
      context: this.#context, params: checked, readOnly: options.readOnly ?? false, snapshotRef: options.snapshotRef || undefined, modes, credentials,
      closed: (gone) => {
        this.#connections.delete(gone);
        this.#objects.delete(credentials);
      },
    });
    this.#connections.add(connection);
    return connection;
  }

  /**
   * Keeps a virtual machine from being moved while it is backed up. There is nothing to be done here: neither this host nor an NBD
   * server moves machines. VixDiskLib_PrepareForAccess, since VDDK 1.2.
   * @throws VixError VIX_E_INVALID_ARG for an identity of more than 50 characters, or none
   */
  async prepareForAccess(params: ConnectParams, identity: string): Promise<void> {
    this.#checkAccess(params, identity);
  }

  /** Undoes prepareForAccess(). VixDiskLib_EndAccess, since VDDK 1.2. */
  async endAccess(params: ConnectParams, identity: string): Promise<void> {
    this.#checkAccess(params, identity);
  }

  /**
   * Removes what runs left that did not end well: unfinished disks. Looks where this user's runs on this host said they were making
   * something, and in `folders`. VixDiskLib_Cleanup, since VDDK 1.2.
   */
  async cleanup(folders: readonly string[] = []): Promise<CleanupResult> {
    this.#assertOpen();
    const { graph, journal, logger } = this.#context;
    const removed: string[] = [];
    const remaining: string[] = [];
    for (const folder of new Set([...journal.folders(), ...folders])) {
      const result = await removeLeftovers(graph, folder).catch((error: unknown) => {
        logger.warn(`${folder}: ${error instanceof Error ? error.message : String(error)}`);
        return { removed: [], remaining: [] };
      });
      removed.push(...result.removed);
      remaining.push(...result.remaining);
      if (result.remaining.length === 0) journal.forget(folder);
    }
    return { removed, remaining };
  }

  /** Ends all connections. VixDiskLib_Exit, since VDDK 1.0. */
  async close(): Promise<void> {
    this.#open = false;
    const failures: unknown[] = [];
    for (const connection of [...this.#connections]) await connection.disconnect().catch((error: unknown) => failures.push(error));
    await this.#context.graph.close();
    if (failures.length > 0) throw failures[0];
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #checkAccess(params: ConnectParams, identity: string): void {
    this.#assertOpen();
    if (identity === '' || identity.length > longestIdentity) throw new VixError('VIX_E_INVALID_ARG', `an identity has 1 to ${longestIdentity} characters`);
    const { vmxSpec } = new ConnectParameters(params);
    this.#context.logger.log(`access by '${identity}'${vmxSpec === undefined ? '' : ` to ${vmxSpec}`}`);
  }

  #assertOpen(): void {
    if (!this.#open) throw new VixError('VIX_E_DISK_NOINIT');
  }
}
