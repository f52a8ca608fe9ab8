/** The server's side of a TLS connection over a socket. */
import type { Socket } from 'node:net';
import { TLSSocket, createSecureContext, type SecureContext } from 'node:tls';
import { pskCiphers, type TlsCredentials } from '../../platform/tls-credentials.js';

/** Credentials made ready once for all connections. */
export class ServerTls {
  readonly #context: SecureContext;
  readonly #credentials: TlsCredentials;

  constructor(credentials: TlsCredentials) {
    this.#credentials = credentials;
    this.#context = createSecureContext(credentials.psk === undefined
      ? { ...credentials.x509, minVersion: 'TLSv1.2' }
      : { ciphers: pskCiphers, minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' });
  }

  /** Resolves when the client has proved itself; rejects (and destroys the socket) where it cannot. */
  async accept(plain: Socket): Promise<TLSSocket> {
    const { psk, verifyPeer } = this.#credentials;
    const verify = verifyPeer && psk === undefined;
    // Node's documented constructor options lack pskCallback, which it hands on to the handle for servers as for clients.
    const options = {
      isServer: true, secureContext: this.#context, requestCert: verify, rejectUnauthorized: verify,
      ...(psk && { pskCallback: (_socket: TLSSocket, identity: string) => psk.get(identity) ?? null }),
    };
    const secured = new TLSSocket(plain, options);
    await new Promise<void>((resolve, reject) => {
      const fail = (error?: Error): void => reject(new Error(`TLS handshake failed: ${error?.message ?? 'the client left'}`));
      plain.once('close', () => fail());
      secured.once('error', fail);
      secured.once('close', () => fail());
      secured.once('secure', () => {
        const problem = verify ? peerProblem(secured) : undefined;
        if (problem === undefined) resolve();
        else fail(problem);
      });
    }).catch((error: unknown) => {
      secured.destroy();
      throw error;
    });
    secured.on('error', () => secured.destroy());
    return secured;
  }
}

/** What is wrong with the client's certificate. TLSSocket itself checks only inside a tls.Server. */
function peerProblem(socket: TLSSocket): Error | undefined {
  const { ssl } = socket as unknown as { readonly ssl: { verifyError(): Error | null } };
  return ssl.verifyError() ?? undefined;
}
