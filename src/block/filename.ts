/** Names of images: protocol prefixes, relative references, and the name a node shows. */
import { flattenOptions, formatJsonFilename, type Options } from './key-values.js';
import type { BlockNode } from './node.js';

/** `nbd` of `nbd://host`; undefined for a plain path (a slash before the colon makes it one). */
export function protocolPrefix(filename: string): string | undefined {
  const colon = filename.indexOf(':');
  if (colon <= 0) return undefined;
  const slash = filename.indexOf('/');
  return slash !== -1 && slash < colon ? undefined : filename.slice(0, colon);
}

/** The same path in a form that is never taken for a protocol's name. */
export function asPath(path: string): string {
  return protocolPrefix(path) === undefined ? path : `./${path}`;
}

/** Resolves a name found in `image` as the image means it: relative to the image's folder. */
export function resolveReference(filename: string, image: string): string {
  return protocolPrefix(filename) === undefined ? resolvePath(filename, image) : filename;
}

/** Like resolveReference() for a name that is a path whatever it looks like. */
export function resolvePath(path: string, image: string): string {
  if (path.startsWith('/')) return path;
  const folder = image.startsWith('json:') ? '' : folderPart(image);
  return folder === '' ? asPath(path) : folder + path;
}

/** What stands before a file's own name: its folder, with the slash, or else a protocol's prefix, with the colon. */
export function folderPart(filename: string): string {
  const slash = filename.lastIndexOf('/');
  return filename.slice(0, (slash === -1 ? protocolPrefix(filename)?.length ?? -1 : slash) + 1);
}

/** The file that names stored in the node's image are relative to; undefined where there is not one. */
export function placeOf(node: BlockNode): string | undefined {
  const below = node.children.get('file') ?? node.children.get('image');
  if (below !== undefined) return placeOf(below.node);
  return node.children.size > 0 ? undefined : plainFilename(node);
}

/** The absolute path of the folder that the node's file lies in, where its protocol knows folders. */
export function folderOf(node: BlockNode): string | undefined {
  const below = node.children.get('file') ?? node.children.get('image');
  return below === undefined ? node.facet('folder')?.folder : folderOf(below.node);
}

/** A plain filename if it alone reopens the node as it is, else json:{…}. */
export function describeFilename(node: BlockNode): string {
  return plainFilename(node) ?? formatJsonFilename(describeOptions(node) as Options);
}

function plainFilename(node: BlockNode): string | undefined {
  const own = node.ops.filename();
  if (own !== undefined) return own;
  if (node.driver.kind !== 'format' || strongOptions(node).length > 0) return undefined;
  for (const [name, child] of node.children) {
    if (child.role === 'cow' && !node.implicit.has(name)) return undefined;
  }
  if (node.detached) return undefined;
  const file = node.children.get('file');
  return file && file.node.driver.kind !== 'format' ? plainFilename(file.node) : undefined;
}

function strongOptions(node: BlockNode): [string, unknown][] {
  const fields = node.driver.options as Record<string, { strong?: boolean }>;
  return Object.entries(node.explicitOptions).filter(([key]) => fields[key]?.strong !== false);
}

/** Options that reopen the node and everything below that its own metadata does not name. */
function describeOptions(node: BlockNode): Record<string, unknown> {
  const options: Record<string, unknown> = {};
  for (const [place, child] of node.children) {
    if (node.implicit.has(place)) continue;
    const [name, index] = place.split('.') as [string, string?];
    if (index === undefined) options[name] = describeOptions(child.node);
    else options[name] = [...(options[name] as unknown[] | undefined ?? []), describeOptions(child.node)];
  }
  if (node.detached) options['backing'] = null;
  return { ...options, driver: node.driver.name, ...flattenOptions(Object.fromEntries(strongOptions(node)) as Options) };
}
