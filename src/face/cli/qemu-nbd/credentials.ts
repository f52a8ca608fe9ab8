/** The TLS credentials that --tls-creds names. */
import { BlockError } from '../../../block/errors.js';
import { findTlsCredentials, type TlsCredentials, type TlsEndpoint } from '../../../platform/tls-credentials.js';
import { userObjects } from '../objects.js';
import { CliError } from '../output.js';

/** @throws CliError */
export function credentials(id: string, endpoint: TlsEndpoint): TlsCredentials {
  try {
    return findTlsCredentials(id, (name) => userObjects().get(name), endpoint);
  } catch (error) {
    if (error instanceof BlockError) throw new CliError(`Failed to get TLS creds: ${error.message}`);
    throw error;
  }
}
