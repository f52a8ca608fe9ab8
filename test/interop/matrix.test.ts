/**
 * Every format in every variant, both ways against everybody who knows it. What was judged, and by whom, is written to
 * docs/formats/interop.md.
 */
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ToolFolder } from '../support/our-tools.js';
import { havePeers } from '../support/peers.js';
import { randomBytes } from '../support/seed.js';
import { kinds, makeOurs, passphrase, showByUs, showingWords, type ImageKind } from './image-kinds.js';
import { judges, type Judge } from './judges.js';

interface Row { readonly kind: ImageKind; readonly read: string[]; readonly written: string[]; readonly checked: string[] }
const rows: Row[] = [];

const needed = ['qemu-img', 'vhdimount', 'vmdkmount', 'qcowmount', 'nbdkit', 'nbdcopy', 'cryptsetup', 'bximage', 'create_compressed_fs', 'fusermount', 'xmount', 'dmg2img',
  'mcopy', 'fsck.fat', 'bzip2', 'xz'];
describe.skipIf(!havePeers(...needed))('interop', () => {
  const invited = judges();
  const everybody = invited.filter(({ version }) => version !== undefined);
  const called = ({ name, version }: Judge): string => `${name} ${version}`;
  let folder: ToolFolder;
  let content: Buffer;
  beforeAll(() => {
    folder = new ToolFolder();
    const text = Buffer.from('all work and no play makes a dull disk '.repeat(7000));
    content = Buffer.concat([randomBytes(200_000), text, Buffer.alloc(3 << 20), text, randomBytes(512 * 7)]);
    content = Buffer.concat([content, Buffer.alloc((8 << 20) - 512 - content.length), randomBytes(512)]);
    writeFileSync(folder.file('disk.raw'), content);
  });
  afterAll(async () => {
    await folder.remove();
    if (rows.length === kinds.length) writeMatrix(rows);
  });

  /** The disk, up to the zeroes that some formats add at its end. */
  const expectContent = (path: string): void => {
    const found = readFileSync(path);
    expect(found.length).toBeGreaterThanOrEqual(content.length);
    expect(found.subarray(0, content.length).equals(content), 'content').toBe(true);
    expect(found.subarray(content.length).some((byte) => byte !== 0), 'bytes behind the disk').toBe(false);
  };
  const inFolder = (name: string): string => {
    const path = folder.file(name);
    rmSync(path, { recursive: true, force: true });
    mkdirSync(path);
    return path;
  };

  it.runIf(process.env['CI'] === 'true')('has every judge', () => {
    expect(invited.filter(({ version }) => version === undefined).map(({ name }) => name)).toEqual([]);
  });

  for (const kind of kinds) {
    it(`${kind.format} ${kind.variant}`, () => {
      const row: Row = { kind, read: [], written: [], checked: [] };
      if (kind.readOnly !== 'made by others') {
        const image = join(inFolder('ours'), 'disk.image');
        makeOurs(folder, kind, folder.file('disk.raw'), image);
        if (kind.readOnly || kind.unjudged) {
          showByUs(folder, kind, image, folder.file('shown.raw'));
          expectContent(folder.file('shown.raw'));
        }
        for (const judge of everybody.filter(({ can, read }) => read && can('read', kind))) {
          const raw = join(inFolder('theirs'), 'disk.raw');
          judge.read!(kind, image, raw);
          expectContent(raw);
          row.read.push(called(judge));
        }
        for (const judge of everybody.filter(({ can, check }) => check && can('check', kind))) {
          judge.check!(kind, image);
          row.checked.push(called(judge));
        }
      }
      for (const judge of everybody.filter(({ can, write }) => write && can('write', kind))) {
        const place = inFolder('theirs');
        const image = join(place, 'disk.image');
        copyFileSync(folder.file('disk.raw'), join(place, 'disk.raw'));
        kind.prepare?.(folder, image);
        judge.write!(kind, join(place, 'disk.raw'), image);
        showByUs(folder, kind, image, join(place, 'back.raw'));
        expect(statSync(join(place, 'back.raw')).size).toBeGreaterThan(0);
        expectContent(join(place, 'back.raw'));
        row.written.push(called(judge));
      }
      if (!kind.unjudged) expect(row.written.length + row.read.length).toBeGreaterThan(0);
      rows.push(row);
    });
  }

  it('is not fooled by a wrong passphrase', () => {
    const kind = kinds.find(({ format }) => format === 'luks')!;
    const image = folder.file('locked.luks');
    makeOurs(folder, kind, folder.file('disk.raw'), image);
    const wrong = showingWords(kind, image, folder.file('no.raw')).map((word) => word.replace(passphrase, 'battery staple'));
    expect(folder.run(folder.tool('qemu-img'), wrong).stderr).toContain('Invalid password, cannot unlock any keyslot');
  });
});

function writeMatrix(found: readonly Row[]): void {
  const cell = (names: readonly string[], absent: string): string => names.join(', ') || absent;
  const lines = found.map(({ kind: { format, variant, readOnly }, read, written, checked }) => `| ${format} | ${variant} | `
    + `${readOnly === 'made by others' ? 'read-only format' : cell(read, 'no independent judge')} | `
    + `${readOnly === 'made by our tests' ? readOnly : cell(written, 'no independent maker')} | ${readOnly === undefined ? cell(checked, 'no checker') : ''} |`);
  mkdirSync(join(import.meta.dirname, '../../docs/formats'), { recursive: true });
  writeFileSync(join(import.meta.dirname, '../../docs/formats/interop.md'), `# Who agrees with us

Written by \`test/interop/matrix.test.ts\` from what it saw: a disk of 8 MiB with random, repeating and empty parts, in every format. The
program named has read from our image exactly that disk, has written an image from which we read exactly that disk, or has found no fault
with ours. What only our tests make, and we only read, is read alike by the programs of the first column. Of vvfat the image is what a folder
is shown as, and the disk a file there. Finer variants are judged by the tests of each format.

| format | variant | we write, read by | written by, we read | ours checked by |
| --- | --- | --- | --- | --- |
${lines.join('\n')}
`);
}
