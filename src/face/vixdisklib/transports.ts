/** Ways to a disk: files of this host, and NBD servers, plain or encrypted. */
import type { UserObject } from '../../block/objects.js';
import type { ConnectParameters } from './connect-params.js';
import { SpecType, TRANSPORT_MODES, type TransportMode } from './constants.js';
import { VixError } from './errors.js';
import { machineName, parseVmxSpec } from './vmx-spec.js';

/** What NBD servers listen on. */
const usualPort = 10809;

/**
 * Names in order of preference, separated by colons; null, undefined and '' mean all.
 * @throws VixError VIX_E_INVALID_ARG for a name that is none
 */
export function parseTransportModes(text: string | null | undefined): readonly TransportMode[] {
  if (!text) return TRANSPORT_MODES;
  const names = text.split(':');
  const stranger = names.find((name) => !(TRANSPORT_MODES as readonly string[]).includes(name));
  if (stranger !== undefined) throw new VixError('VIX_E_INVALID_ARG', `'${stranger}' is no transport mode: they are ${TRANSPORT_MODES.join(', ')}`);
  return names as TransportMode[];
}

/**
 * The modes among those wanted that can lead to a disk.
 * @throws VixError VIX_E_NOT_SUPPORTED where only san and hotadd are wanted, which this library has not; VIX_E_INVALID_ARG where none fits
 */
export function usableModes(wanted: readonly TransportMode[], remote: boolean): readonly TransportMode[] {
  const usable = wanted.filter((mode) => (remote ? mode === 'nbd' || mode === 'nbdssl' : mode === 'file'));
  if (usable.length > 0) return usable;
  if (wanted.some((mode) => mode === 'san' || mode === 'hotadd')) throw new VixError('VIX_E_NOT_SUPPORTED', `there is no transport ${wanted.join(' or ')} here`);
  throw new VixError('VIX_E_INVALID_ARG', remote ? `'${wanted.join(':')}' does not lead to a server` : `'${wanted.join(':')}' needs a serverName`);
}

/** The `server` of the nbd driver's options. */
export function nbdServer({ serverName = '', port, nfcHostPort }: ConnectParameters): Readonly<Record<string, string>> {
  if (serverName.startsWith('/')) return { type: 'unix', path: serverName };
  return { type: 'inet', host: serverName.replace(/^\[(.*)\]$/, '$1'), port: String(nfcHostPort || port || usualPort) };
}

/**
 * Names under which a server may offer a disk, the best first: `MACHINE/PATH`, PATH as given, and, for `[store] folder/disk.vmdk`,
 * `store/folder/disk.vmdk`. With a snapshot `MACHINE@SNAPSHOT/PATH` and `PATH@SNAPSHOT` alone: a disk that goes on changing is no
 * substitute for its snapshot. First-class disks go by their id.
 */
export function exportNames(params: ConnectParameters, path: string, snapshot: string | undefined): readonly string[] {
  const { specType, vStorageObjSpec, vmxSpec } = params;
  if (specType === SpecType.VSTORAGE_OBJECT && vStorageObjSpec) {
    const { id, ssId } = vStorageObjSpec;
    return [ssId === undefined ? id : `${id}@${ssId}`];
  }
  const machine = vmxSpec === undefined ? undefined : machineName(parseVmxSpec(vmxSpec));
  if (snapshot !== undefined) return [...(machine === undefined ? [] : [`${machine}@${snapshot}/${path}`]), `${path}@${snapshot}`];
  const managed = /^\[([^\]]+)\] *(.+)$/.exec(path);
  return [...(machine === undefined ? [] : [`${machine}/${path}`]), path, ...(managed ? [`${managed[1]}/${managed[2]}`] : [])];
}

/** TLS credentials of a connection: the thumbprint is what is trusted; without one, the authorities of `directory` or of the system. */
export function credentialsObject(id: string, thumbPrint: string | undefined, directory: string | undefined): UserObject {
  return {
    type: 'tls-creds-x509', id,
    properties: {
      endpoint: 'client', ...(directory !== undefined && { dir: directory }), ...(thumbPrint !== undefined && { fingerprint: thumbPrint }),
      ...(directory === undefined && { 'system-trust': true }),
    },
  };
}
