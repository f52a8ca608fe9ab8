/** `vmxSpec`: which virtual machine a connection is about. */
import { VixError } from './errors.js';

export type VmxSpec =
  /** By its managed object reference: 'vm-16' of a vCenter, '2' of an ESXi host. */
  | { readonly kind: 'moref'; readonly moref: string }
  /** By its configuration file on a datastore. */
  | { readonly kind: 'path'; readonly vmxPath: string; readonly datacenterPath: string; readonly datastore: string };

/**
 * Takes a vmxSpec apart: `moref=vm-16`, or `Folder/VM.vmx?dcPath=Path/To/Datacenter&dsName=storage1`.
 * @throws VixError VIX_E_INVALID_ARG
 */
export function parseVmxSpec(text: string): VmxSpec {
  const moref = /^moref=(.*)$/.exec(text);
  if (moref) {
    if (!/^[\w.-]+$/.test(moref[1]!)) throw invalid(text);
    return { kind: 'moref', moref: moref[1]! };
  }
  const mark = text.lastIndexOf('?');
  const parameters = new Map(text.slice(mark + 1).split('&').map((part): [string, string] => {
    const equals = part.indexOf('=');
    return [part.slice(0, Math.max(0, equals)), part.slice(equals + 1)];
  }));
  const vmxPath = text.slice(0, Math.max(0, mark));
  const [datacenterPath, datastore] = [parameters.get('dcPath'), parameters.get('dsName')];
  if (!/\.vmx$/i.test(vmxPath) || !datacenterPath || !datastore || parameters.size !== 2) throw invalid(text);
  return { kind: 'path', vmxPath, datacenterPath, datastore };
}

/** The text that parseVmxSpec() takes apart. */
export function formatVmxSpec(spec: VmxSpec): string {
  return spec.kind === 'moref' ? `moref=${spec.moref}` : `${spec.vmxPath}?dcPath=${spec.datacenterPath}&dsName=${spec.datastore}`;
}

/** What a server calls the virtual machine: its reference, or its folder. */
export function machineName(spec: VmxSpec): string {
  if (spec.kind === 'moref') return spec.moref;
  return spec.vmxPath.slice(0, Math.max(0, spec.vmxPath.lastIndexOf('/'))) || spec.vmxPath.replace(/\.vmx$/i, '');
}

function invalid(text: string): VixError {
  return new VixError('VIX_E_INVALID_ARG', `'${text}' is no vmxSpec: moref=ID, or FOLDER/NAME.vmx?dcPath=DATACENTER&dsName=DATASTORE`);
}
