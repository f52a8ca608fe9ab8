import { describe, expect, it } from 'vitest';
import { decodeLocator, newLocators, parentCandidates } from './locator.js';

const utf16le = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'utf16le'));

describe('names of parents', () => {
  it.each([
    ['W2ru', utf16le('.\\base.vhd'), 'base.vhd'],
    ['W2ru', utf16le('..\\disks\\base.vhd\0\0'), '../disks/base.vhd'],
    ['W2ku', utf16le('C:\\vm\\base.vhd'), 'C:/vm/base.vhd'],
    ['Wi2r', new TextEncoder().encode('.\\base.vhd\0'), 'base.vhd'],
    ['MacX', new TextEncoder().encode('file://localhost/disks/a%20b.vhd'), '/disks/a b.vhd'],
    ['MacX', new TextEncoder().encode('file://./base.vhd'), 'base.vhd'],
    ['MacX', new TextEncoder().encode('http://elsewhere/base.vhd'), undefined],
    ['Mac ', new Uint8Array(16), undefined],
  ])('%s %#', (platform, data, name) => {
    expect(decodeLocator(platform, data)).toBe(name);
  });

  it('on another machine leads to the file beside the child; what looks like a protocol is a file', () => {
    expect(parentCandidates(['C:/vm/base.vhd', '//server/share/other.vhd', 'nbd:host:10809', '/disks/base.vhd']))
      .toEqual(['./nbd:host:10809', '/disks/base.vhd', 'base.vhd', 'other.vhd']);
  });

  it.each([
    ['./co:lon.vhd', '/disks', ['./co:lon.vhd', '/disks/co:lon.vhd']],
    ['./a:b/y.vhd', '/disks', ['./a:b/y.vhd', '/disks/a:b/y.vhd', 'y.vhd']],
    ['/disks/a:b/y.vhd', '/disks', ['./a:b/y.vhd', '/disks/a:b/y.vhd', 'y.vhd']],
  ])('with a colon are found again: %s', (name, folder, expected) => {
    expect(parentCandidates(newLocators(name, folder).map(({ platform, data }) => decodeLocator(platform, data)!))).toEqual(expected);
  });

  it('with a backslash cannot be said, unless it is in the name of a folder that both share', () => {
    expect(() => newLocators('back\\slash.vhd', '/disks')).toThrow('backslash');
    expect(() => newLocators('/disks/back\\slash.vhd', undefined)).toThrow('backslash');
    expect(parentCandidates(newLocators('base.vhd', '/di\\sks').slice(0, 1).map(({ platform, data }) => decodeLocator(platform, data)!))).toEqual(['base.vhd']);
  });

  it.each<[string, string | undefined, Record<string, string>]>([
    ['base.vhd', undefined, { W2ru: 'base.vhd', MacX: 'base.vhd' }],
    ['../x/a b.vhd', '/disks/vm', { W2ru: '../x/a b.vhd', W2ku: '/disks/x/a b.vhd', MacX: '../x/a b.vhd' }],
    ['/disks/ü.vhd', '/disks/vm/one', { W2ru: '../../ü.vhd', W2ku: '/disks/ü.vhd', MacX: '/disks/ü.vhd' }],
    ['/disks/base.vhd', '/disks', { W2ru: 'base.vhd', W2ku: '/disks/base.vhd', MacX: '/disks/base.vhd' }],
    ['/disks/base.vhd', undefined, { W2ku: '/disks/base.vhd', MacX: '/disks/base.vhd' }],
  ])('are read as written: %s in %s', (name, folder, expected) => {
    expect(Object.fromEntries(newLocators(name, folder).map(({ platform, data }) => [platform, decodeLocator(platform, data)]))).toEqual(expected);
  });
});
