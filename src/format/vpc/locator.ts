/** Names by which a differencing disk refers to its parent, on several platforms. */
import { BlockError, Errno } from '../../block/errors.js';
import { asPath } from '../../block/filename.js';
import { utf16, utf16Bytes, type DynamicHeader, type ParentLocator } from './header.js';

/** Relative names first: they stay right when the disks move together. */
const preference = ['W2ru', 'MacX', 'W2ku', 'Wi2r', 'Wi2k'];

/** Longest name that is looked at, in bytes. */
export const maxLocatorLength = 64 * 1024;

/** Locators worth reading, best first. */
export function usableLocators({ locators }: DynamicHeader): ParentLocator[] {
  return locators.filter(({ platform, length }) => preference.includes(platform) && length > 0 && length <= maxLocatorLength)
    .sort((a, b) => preference.indexOf(a.platform) - preference.indexOf(b.platform));
}

/** What a locator's data says, as a file name here; undefined where it says nothing. */
export function decodeLocator(platform: string, data: Uint8Array): string | undefined {
  switch (platform) {
    case 'W2ru': case 'W2ku': return fromWindows(utf16(data, true));
    case 'Wi2r': case 'Wi2k': return fromWindows(untilNul(new TextDecoder('latin1').decode(data)));
    case 'MacX': return fromUrl(untilNul(new TextDecoder().decode(data)));
    default: return undefined;
  }
}

/**
 * File names to try for the parent, best first: what the locators say, then the same file beside the child (paths of another machine).
 * @param names decoded locators, best first, and the name in the header
 */
export function parentCandidates(names: readonly string[]): string[] {
  const usable = names.filter((name) => !isForeign(name));
  const beside = names.map((name) => name.slice(name.lastIndexOf('/') + 1));
  return [...new Set([...usable, ...beside].filter((name) => name !== '').map(asPath))];
}

/** A name as Windows writes it, with slashes. What it calls relative (`.\\`) has no drive letter, whatever it looks like. */
export function fromWindows(name: string): string | undefined {
  const slashed = name.replaceAll('\\', '/');
  const plain = slashed.replace(/^(\.\/)+/, '');
  if (plain === '') return undefined;
  return plain === slashed ? plain : asPath(plain);
}

/** A drive letter or a share: no file of ours. */
function isForeign(name: string): boolean {
  return /^([A-Za-z]:|\/\/)/.test(name);
}

function fromUrl(url: string): string | undefined {
  const match = /^file:\/\/(?:localhost(?=\/))?(.*)$/.exec(url);
  if (!match) return undefined;
  try {
    return fromWindows(decodeURIComponent(match[1]!));
  } catch {
    return undefined;
  }
}

function untilNul(text: string): string {
  const end = text.indexOf('\0');
  return end < 0 ? text : text.slice(0, end);
}

export interface NewLocator {
  readonly platform: string;
  readonly data: Uint8Array;
}

/**
 * Locators by which Windows and the Unix world find the parent: a relative and an absolute name, as far as both can be told.
 * @param name relative to the child's folder, or absolute
 * @param folder absolute path of the child's folder
 * @throws BlockError INVALID_ARGUMENT where the format cannot say the name
 */
export function newLocators(name: string, folder: string | undefined): NewLocator[] {
  const isAbsolute = name.startsWith('/');
  const absolute = isAbsolute ? name : folder === undefined ? undefined : `/${normalised(`${folder}/${name}`).join('/')}`;
  const relative = !isAbsolute ? name : folder === undefined ? undefined : relativeName(normalised(folder), normalised(name));
  if ((relative ?? absolute)?.includes('\\')) {
    throw new BlockError('INVALID_ARGUMENT', `A VHD cannot name a parent with a backslash in its name: '${name}'`, { errno: Errno.EINVAL });
  }
  return [
    ...(relative === undefined ? [] : [{ platform: 'W2ru', data: utf16Bytes(`.\\${relative.replaceAll('/', '\\')}`, true) }]),
    ...(absolute === undefined ? [] : [{ platform: 'W2ku', data: utf16Bytes(absolute, true) }]),
    { platform: 'MacX', data: new TextEncoder().encode(isAbsolute ? `file://${encodeURI(name)}` : `file://./${encodeURI(name)}`) },
  ];
}

function normalised(path: string): string[] {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return parts;
}

function relativeName(folder: readonly string[], target: readonly string[]): string {
  const parting = folder.findIndex((part, index) => part !== target[index]);
  const shared = parting < 0 ? folder.length : parting;
  return [...folder.slice(shared).map(() => '..'), ...target.slice(shared)].join('/');
}
