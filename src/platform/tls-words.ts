/** What goes wrong with encrypted connections, in the words of the peers' library. */

/** The other side left without saying so, which may be an attack. */
export const cutOff = 'The TLS connection was non-properly terminated.';

const unknownIssuer: ReadonlySet<string> = new Set([
  'UNABLE_TO_GET_ISSUER_CERT', 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'SELF_SIGNED_CERT_IN_CHAIN',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
]);

/** Whether OpenSSL's code means that nobody whom we trust signed the certificate. */
export function isUnknownIssuer(code: string): boolean { return unknownIssuer.has(code); }
