/** Foreign NBD servers for tests: each on a unix socket in a folder of its own, gone after the test. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export class TestFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'vdisk-nbd-'));
  readonly #children = new Set<ChildProcess>();
  #counter = 0;

  file(name: string): string {
    return join(this.path, name);
  }

  /** Starts a server on a socket (a new one unless given) and resolves with the socket's path when it is there. */
  async serve(command: string, parameters: (socket: string) => readonly string[], socket = this.file(`${this.#counter++}.sock`)): Promise<RunningServer> {
    rmSync(socket, { force: true });
    const child = spawn(command, parameters(socket), { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#children.add(child);
    let errors = '';
    child.stderr.on('data', (text: Buffer) => { errors += text.toString(); });
    for (let tries = 0; !await listens(socket); tries++) {
      if (child.exitCode !== null || tries > 1000) throw new Error(`${command} did not start: ${errors}`);
      await new Promise((resolve) => { setTimeout(resolve, 10); });
    }
    return {
      socket,
      uri: (exportName = '') => `nbd+unix:///${encodeURIComponent(exportName)}?socket=${socket}`,
      stop: () => this.#stop(child),
    };
  }

  /** nbdkit: options, plugin and its parameters follow the socket. */
  nbdkit(parameters: readonly string[], socket?: string): Promise<RunningServer> {
    return this.serve('nbdkit', (path) => ['-f', '--exit-with-parent', '-U', path, ...parameters], socket);
  }

  qemuNbd(command: string, parameters: readonly string[], socket?: string): Promise<RunningServer> {
    return this.serve(command, (path) => ['-t', '-e', '0', '-k', path, ...parameters], socket);
  }

  async remove(): Promise<void> {
    await Promise.all([...this.#children].map((child) => this.#stop(child)));
    rmSync(this.path, { recursive: true });
  }

  async #stop(child: ChildProcess): Promise<void> {
    this.#children.delete(child);
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => { child.once('exit', resolve); });
    child.kill('SIGKILL');
    await gone;
  }
}

export interface RunningServer {
  readonly socket: string;
  uri(exportName?: string): string;
  /** At once, as if its machine had lost power. */
  stop(): Promise<void>;
}

/** Whether a server accepts clients there; it sees one that goes at once. */
export function listens(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socket, () => {
      probe.destroy();
      resolve(true);
    });
    probe.on('error', () => resolve(false));
  });
}

/** A certificate authority with a server's (localhost) and a client's certificate in `folder`, under the names that QEMU and nbdkit expect. */
export function makeCertificates(folder: string): void {
  mkdirSync(folder);
  const openssl = (...parameters: readonly string[]): void => {
    const { status, stderr } = spawnSync('openssl', parameters, { cwd: folder, encoding: 'utf8' });
    if (status !== 0) throw new Error(`openssl: ${stderr}`);
  };
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl('req', '-x509', ...key, '-keyout', 'ca-key.pem', '-out', 'ca-cert.pem', '-days', '3650', '-subj', '/CN=Test authority',
    '-addext', 'keyUsage=critical,keyCertSign,cRLSign');
  for (const end of ['server', 'client']) {
    writeFileSync(join(folder, 'extensions'), `subjectAltName=DNS:localhost\nextendedKeyUsage=${end}Auth\nkeyUsage=digitalSignature\nbasicConstraints=CA:FALSE\n`);
    openssl('req', ...key, '-keyout', `${end}-key.pem`, '-out', 'request.pem', '-subj', `/CN=${end === 'server' ? 'localhost' : 'client'}`);
    openssl('x509', '-req', '-in', 'request.pem', '-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial', '-out', `${end}-cert.pem`,
      '-days', '3650', '-extfile', 'extensions');
  }
}
