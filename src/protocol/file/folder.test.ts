import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { decodeNote, encodeNote, isTemporary, temporaryName } from '../../block/leftovers.js';
import { DriverRegistry } from '../../block/registry.js';
import { folders } from './folder.js';
import { file as fileDriver } from './index.js';

describe('files by their names', () => {
  let folder = '';
  beforeEach(() => { folder = mkdtempSync(join(tmpdir(), 'vdisk-folder-')); });
  afterEach(() => rmSync(folder, { recursive: true }));
  const file = (name: string): string => join(folder, name);

  it('are replaced at once, with the same permissions, also through a link', async () => {
    writeFileSync(file('a.img'), 'old');
    chmodSync(file('a.img'), 0o640);
    symlinkSync('a.img', file('link'));
    await folders.replace(file('link'), (temporary) => {
      writeFileSync(temporary, 'new');
      expect(readFileSync(file('a.img'), 'utf8')).toBe('old');
      return Promise.resolve();
    });
    expect(readFileSync(file('a.img'), 'utf8')).toBe('new');
    expect(statSync(file('a.img')).mode & 0o777).toBe(0o640);
    expect(readdirSync(folder)).toEqual(['a.img', 'link']);
    await expect(folders.replace(file('a.img'), (temporary) => {
      writeFileSync(temporary, 'half');
      return Promise.reject(new Error('no more'));
    })).rejects.toThrow();
    expect(readFileSync(file('a.img'), 'utf8')).toBe('new');
    expect(readdirSync(folder)).toEqual(['a.img', 'link']);
  });

  it('get further names, but none that is taken', async () => {
    writeFileSync(file('a'), 'a');
    writeFileSync(file('b'), 'b');
    await expect(folders.link(file('a'), file('b'))).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
    await folders.link(file('a'), file('c'));
    expect(statSync(file('c')).ino).toBe(statSync(file('a')).ino);
    await expect(folders.link(file('x'), file('y'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect(await folders.list(folder)).toEqual(['a', 'b', 'c']);
  });

  it('are rewritten while they are open, and stay locked', async () => {
    writeFileSync(file('a'), 'old content');
    await using graph = new BlockGraph({ drivers: new DriverRegistry([fileDriver]) });
    const open = await graph.openBackend({ driver: 'file', filename: file('a') });
    await open.facet('rewrite')!.rewrite(new TextEncoder().encode('new'));
    expect(readFileSync(file('a'), 'utf8')).toBe('new');
    expect(open.size).toBe(3);
    await open.write(0, new TextEncoder().encode('N'));
    expect(readFileSync(file('a'), 'utf8')).toBe('New');
    await expect(graph.openBackend({ driver: 'file', filename: file('a') })).rejects.toMatchObject({ code: 'PERMISSION_CONFLICT' });
    await open.close();
    const reader = await graph.openBackend({ driver: 'file', filename: file('a') }, { readOnly: true });
    expect(reader.facet('rewrite')).toBeUndefined();
  });

  it('are known as leftovers by their names, and by notes that are whole', () => {
    expect(temporaryName('/x/disk.vmdk')).toBe('/x/disk.vdisk-tmp.vmdk');
    expect(temporaryName('/x.y/.hidden')).toBe('/x.y/.hidden.vdisk-tmp');
    expect(['/x/disk.vdisk-tmp-s001.vmdk', '/x.vdisk-tmp/disk.vmdk'].map(isTemporary)).toEqual([true, false]);
    const note = { image: 'a', added: ['b'], removed: [] };
    expect(decodeNote(encodeNote(note))).toEqual(note);
    expect(decodeNote(encodeNote(note).subarray(1))).toBeUndefined();
    expect(decodeNote(new TextEncoder().encode('{"image":1,"added":[],"removed":[]}'))).toBeUndefined();
  });
});
