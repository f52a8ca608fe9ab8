/** Who is asked for disks, and as whom. */
import { inspect } from 'node:util';
import { CredType, SpecType } from './constants.js';
import { VixError } from './errors.js';
import { parseVmxSpec } from './vmx-spec.js';

/** By name and password (CredType.UID), or by a session that exists (CredType.SESSIONID). */
export type Credentials =
  | { readonly userName: string; readonly password: string }
  | { readonly cookie: string; readonly userName?: string; readonly key?: string };

/** VixDiskLibConnectParams. Everything is optional: without `serverName` disks are files of this host. */
export interface ConnectParams {
  /** Which virtual machine: `moref=ID`, or `FOLDER/NAME.vmx?dcPath=DATACENTER&dsName=DATASTORE`. */
  readonly vmxSpec?: string | null | undefined;
  /** Name or address of the host; a path (with a leading slash) is that of a unix socket. */
  readonly serverName?: string | null | undefined;
  /** Of the server's certificate: SHA-1, 20 pairs of hexadecimal digits with colons; SHA-256 (32 pairs) is understood, too. */
  readonly thumbPrint?: string | null | undefined;
  readonly credType?: CredType | undefined;
  /**
   * Never shown by JSON.stringify() or inspect(). NBD has no use for them: they are not sent. What C calls `creds.uid.userName` and
   * `creds.sessionId.cookie` is `creds.userName` and `creds.cookie`.
   */
  readonly creds?: Credentials | undefined;
  /** 0 or absent: the usual one. */
  readonly port?: number | undefined;
  /** Port of the disk server, where it is another; wins over `port`. */
  readonly nfcHostPort?: number | undefined;
  readonly specType?: SpecType | undefined;
  /** Since VDDK 6.5: the first-class disk, where specType says so. In C, `spec.vStorageObjSpec`. */
  readonly vStorageObjSpec?: { readonly id: string; readonly datastoreMoRef: string; readonly ssId?: string } | undefined;
}

/** Parameters of a connection, checked. What is secret in them does not appear when they are printed. */
export class ConnectParameters implements ConnectParams {
  readonly vmxSpec: string | undefined;
  readonly serverName: string | undefined;
  readonly thumbPrint: string | undefined;
  readonly credType: CredType;
  readonly port: number;
  readonly nfcHostPort: number;
  readonly specType: SpecType;
  readonly vStorageObjSpec: ConnectParams['vStorageObjSpec'];
  readonly #creds: Credentials | undefined;

  /** @throws VixError VIX_E_INVALID_ARG, VIX_E_INVALID_HOSTNAME_SPECIFICATION */
  constructor(given: ConnectParams) {
    this.vmxSpec = given.vmxSpec || undefined;
    this.serverName = given.serverName || undefined;
    this.thumbPrint = given.thumbPrint ? checkedThumbPrint(given.thumbPrint) : undefined;
    this.credType = given.credType ?? CredType.UID;
    this.port = checkedPort('port', given.port);
    this.nfcHostPort = checkedPort('nfcHostPort', given.nfcHostPort);
    this.specType = given.specType ?? SpecType.VMX;
    this.vStorageObjSpec = given.vStorageObjSpec;
    this.#creds = given.creds;
    if (this.serverName !== undefined && !/^(\/.*|[\w.-]+|\[?[0-9A-Fa-f:.]+(%\w+)?\]?)$/.test(this.serverName)) {
      throw new VixError('VIX_E_INVALID_HOSTNAME_SPECIFICATION', `'${this.serverName}'`);
    }
    if (this.vmxSpec !== undefined) parseVmxSpec(this.vmxSpec);
    if (this.specType === SpecType.VSTORAGE_OBJECT && !this.vStorageObjSpec?.id) throw new VixError('VIX_E_INVALID_ARG', 'a first-class disk needs vStorageObjSpec.id');
    this.#checkCredentials();
  }

  get creds(): Credentials | undefined {
    return this.#creds;
  }

  #checkCredentials(): void {
    const creds = this.#creds;
    if (creds === undefined) return;
    const fits = this.credType === CredType.UID ? 'password' in creds : this.credType === CredType.SESSIONID ? 'cookie' in creds : false;
    if (!fits) throw new VixError('VIX_E_INVALID_ARG', `credType ${this.credType} and the credentials do not go together`);
  }

  toJSON(): Record<string, unknown> {
    return { ...(this as object), ...(this.#creds && { creds: '(hidden)' }) };
  }

  [inspect.custom](): string {
    return `ConnectParameters ${inspect(this.toJSON())}`;
  }
}

function checkedThumbPrint(text: string): string {
  const canonical = text.trim().toUpperCase();
  if (!/^([0-9A-F]{2}:){19}([0-9A-F]{2}:){0,12}[0-9A-F]{2}$/.test(canonical) || ![59, 95].includes(canonical.length)) {
    throw new VixError('VIX_E_INVALID_ARG', 'the thumbprint is not of 20 or 32 pairs of hexadecimal digits with colons');
  }
  return canonical;
}

function checkedPort(name: string, port = 0): number {
  if (Number.isInteger(port) && port >= 0 && port <= 65535) return port;
  throw new VixError('VIX_E_INVALID_ARG', `${name} must be a number from 0 to 65535`);
}
