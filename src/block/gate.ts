/**
 * Policy for opens that no user typed: backing files, data files and extents an image names, and formats guessed from content.
 * Library and daemons deny by default; a command-line face asks for what its peer would do.
 */
export interface GateRequest {
  readonly kind: 'backing' | 'data-file' | 'extent' | 'probe';
  /** Resolved name of the file to be opened (for probe: of the file whose content is looked at). */
  readonly filename: string;
  /** Format the image names for it; undefined: it would have to be probed. */
  readonly format?: string;
  /** Name of the image that refers to it; undefined where a user typed it (probe only). */
  readonly from?: string;
}
/** Answers true to allow, false or a reason to deny. */
export type OpenGate = (request: GateRequest) => boolean | string | Promise<boolean | string>;

export const denyImplicitOpens: OpenGate = () => false;
export const allowImplicitOpens: OpenGate = () => true;
