/** The server's side of a TLS connection over a socket. */
import type { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { TLSSocket, createSecureContext, type SecureContext } from 'node:tls';
import type { Authorize } from '../../platform/authorization.js';
import { cutOff, isUnknownIssuer } from '../../platform/tls-words.js';
import { pskCiphers, type TlsCredentials } from '../../platform/tls-credentials.js';

/** Credentials made ready once for all connections. */
export class ServerTls {
  readonly #context: SecureContext;
  readonly #credentials: TlsCredentials;
  readonly #authorize: Authorize | undefined;

  /** @param authorize judges the distinguished name of a client's certificate */
  constructor(credentials: TlsCredentials, authorize?: Authorize) {
    this.#credentials = credentials;
    this.#authorize = authorize;
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
      const fail = (error?: Error): void => reject(new Error(`TLS handshake failed: ${error === undefined ? cutOff : handshakeProblem(error)}`));
      plain.once('close', () => fail());
      secured.once('error', fail);
      secured.once('close', () => fail());
      secured.once('secure', () => {
        const problem = verify ? peerProblem(secured) ?? this.#refusal(secured) : undefined;
        if (problem === undefined) resolve();
        else reject(new Error(problem));
      });
    }).catch((error: unknown) => {
      secured.destroy();
      throw error;
    });
    secured.on('error', () => secured.destroy());
    return secured;
  }

  #refusal(socket: TLSSocket): string | undefined {
    if (this.#authorize === undefined) return undefined;
    const name = distinguishedName(socket.getPeerX509Certificate()!);
    return this.#authorize(name) ? undefined : `TLS x509 authz check for ${name} is denied`;
  }
}

/** A key that does not fit is all that can be wrong without certificates. */
function handshakeProblem(error: Error & { readonly code?: string }): string {
  return error.code?.includes('PSK') === true ? 'An illegal parameter has been received.' : error.message;
}

/** What is wrong with the client's certificate. TLSSocket itself checks only inside a tls.Server. A client that has none of the authorities asked for is to show none. */
function peerProblem(socket: TLSSocket): string | undefined {
  const { ssl } = socket as unknown as { readonly ssl: { verifyError(): (Error & { readonly code?: string }) | null } };
  const error = ssl.verifyError();
  if (error === null) return undefined;
  return `Verify failed: ${isUnknownIssuer(error.code ?? '') ? 'No certificate was found.' : error.message}`;
}

/** As RFC 4514 writes it: the most specific part first. */
function distinguishedName({ subject }: X509Certificate): string {
  return subject.split('\n').reverse().map((part) => part.replace(/(?<==.*)[,+"\\<>;]/g, '\\$&')).join(',');
}
