/** What `amend` does to keyslots, against QEMU 10: exit code, words, which keyslots are active then, and which passphrases open them. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addObject } from '../../src/face/cli/objects.js';
import { share } from '../support/cases.js';
import { runHere } from '../support/in-process.js';
import { oracleTool, runProgram } from '../support/peers.js';

const oracle = oracleTool('qemu-img');
const passphrases = ['a', 'b', 'c', 'empty'];
const objects = passphrases.map((name) => `secret,id=${name},data=${name === 'empty' ? '' : name}`);
const secrets = objects.flatMap((object) => ['--object', object]);

/** Further keyslots of an image that `a` opens with keyslot 0. */
const images = {
  one: [],
  three: ['new-secret=b,keyslot=1', 'new-secret=b,keyslot=3'],
  twins: ['new-secret=a,keyslot=5'],
  full: [1, 2, 3, 4, 5, 6, 7].map((keyslot) => `new-secret=${keyslot < 5 ? 'b' : 'a'},keyslot=${keyslot}`),
};

const erasingOnly = ['', 'keyslot=0', 'keyslot=6', 'old-secret=a', 'old-secret=a,keyslot=0'].map((options) => `state=inactive,${options}`);

/** By image; what begins with "--force" is forced. */
const cases: Readonly<Record<keyof typeof images, readonly string[]>> = {
  one: [...erasingOnly, ...erasingOnly.map((options) => `--force ${options}`)],
  three: [
    ...['new-secret=c', 'new-secret=c,keyslot=0', 'new-secret=c,keyslot=8', 'new-secret=c,keyslot=-1', 'new-secret=b,keyslot=0x5', 'new-secret=empty',
      'new-secret=missing', 'new-secret=missing,keyslot=0', 'new-secret=', '', 'keyslot=2', 'old-secret=a', 'new-secret=c,old-secret=a',
      'new-secret=c,old-secret=missing', 'new-secret=c,iter-time=-1', 'new-secret=c,iter-time=x', 'new-secret=c,iter-time=99999999999',
    ].map((options) => `state=active,${options}`),
    ...['', 'keyslot=0', 'keyslot=3', 'keyslot=6', 'keyslot=8', 'keyslot=-8', 'old-secret=a', 'old-secret=b', 'old-secret=c', 'old-secret=empty',
      'old-secret=missing', 'old-secret=a,keyslot=0', 'old-secret=b,keyslot=0', 'old-secret=b,keyslot=6', 'old-secret=missing,keyslot=8', 'new-secret=c',
      'new-secret=c,old-secret=a', 'new-secret=missing,keyslot=3', 'iter-time=10,keyslot=3', 'old-secret=missing,iter-time=10',
    ].map((options) => `state=inactive,${options}`),
    '--force state=active,new-secret=c,keyslot=0', '--force state=active,new-secret=c,keyslot=8', '--force state=inactive,keyslot=6',
    '--force state=inactive,old-secret=b', '--force state=inactive,old-secret=c', '--force state=inactive,old-secret=b,keyslot=6',
    'new-secret=c', 'keyslot=0', 'state=foo,new-secret=missing', 'state=', 'state=active,new-secret=c,keyslot=99999999999999999999', 'bogus=1', 'hash-alg=sha1',
  ],
  twins: [...erasingOnly, '--force state=inactive,old-secret=a'],
  full: ['state=active,new-secret=c', 'state=active,new-secret=missing', '--force state=active,new-secret=c', 'state=inactive,old-secret=b', 'state=inactive,keyslot=7'],
};

interface Outcome { readonly status: number | null; readonly message: string | undefined; readonly stdout: string }

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-test-'));
  for (const object of objects) addObject(object);
});
afterAll(() => rmSync(folder, { recursive: true }));

describe.skipIf(oracle === undefined).each(['luks', 'qcow2'] as const)('amend of keyslots in %s', (format) => {
  const prefix = format === 'luks' ? '' : 'encrypt.';
  const file = (name: string): string => join(folder, `${name}.${format}`);
  const opened = (name: string, secret: string): string[] => ['--image-opts', `driver=${format},${prefix}key-secret=${secret},file.filename=${file(name)}`];
  const amend = (image: string, options: string, force: boolean): string[] => [
    'amend', ...opened(image, 'a'), ...(force ? ['--force'] : []),
    '-o', options.split(',').filter(Boolean).map((option) => `${prefix}${option}`).join(','),
  ];

  function peer(parameters: readonly string[]): Outcome {
    const { status, stdout, stderr } = runProgram(oracle!, parameters, {});
    return { status, stdout, message: /^qemu-img: (.*)$/m.exec(stderr)?.[1] };
  }

  /** Keyslots and the passphrases that fit, by the peer. */
  function content(image: string): { active: unknown; opens: string[] } {
    const { stdout } = peer(['info', '--output=json', ...opened(image, 'a')]);
    const { data } = (JSON.parse(stdout) as { 'format-specific': { data: { encrypt?: object } } })['format-specific'];
    const { slots } = (data.encrypt ?? data) as { slots: { active: boolean }[] };
    const opens = passphrases.filter((secret) => peer(['map', ...secrets, ...opened(image, secret)]).status === 0);
    return { active: slots.map(({ active }) => active), opens };
  }

  beforeAll(async () => {
    const make = async (parameters: readonly string[]): Promise<void> => expect(await runHere('qemu-img', parameters)).toEqual({ status: 0, stdout: '', message: undefined });
    for (const [name, keyslots] of Object.entries(images)) {
      const encrypted = format === 'luks' ? '' : 'encrypt.format=luks,';
      await make(['create', '-q', '-f', format, '-o', `${encrypted}${prefix}key-secret=a,${prefix}iter-time=10`, file(name), '1M']);
      for (const keyslot of keyslots) await make(amend(name, `state=active,iter-time=10,${keyslot}`, false));
    }
  });

  const asked = Object.entries(cases).flatMap(([image, all]) => all.map((options) => [image, options] as const));
  // QEMU takes its time for each passphrase, and in qcow2 the same code is at work behind a prefix
  it.each(share(asked, format === 'luks' ? 4 : 12))('%s: %s', async (image, given) => {
    const force = given.startsWith('--force ');
    const options = `${given.replace('--force ', '')}${given.includes('active,new-secret') && !given.includes('iter-time') ? ',iter-time=10' : ''}`;
    copyFileSync(file(image), file('theirs'));
    copyFileSync(file(image), file('ours'));
    const theirs = peer([...amend('theirs', options, force), ...secrets]);
    const ours = await runHere('qemu-img', amend('ours', options, force));
    // how many iterations a machine makes is its own business
    const plain = ({ status, stdout, message }: Outcome): Outcome => ({ status, stdout, message: message?.replace(/iterations \d+/, 'iterations N') });
    expect(plain(ours)).toEqual(plain(theirs));
    if (theirs.status === 0) expect(content('ours')).toEqual(content('theirs'));
  });
});
