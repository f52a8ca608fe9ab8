/** Who may do something, by name: `authz-simple` and `authz-list` objects. */
import { BlockError } from '../block/errors.js';
import type { UserObject } from '../block/objects.js';

export type Authorize = (identity: string) => boolean;

interface Rule { readonly match: string; readonly policy: string; readonly format?: string }

/** The judgement of the object with that id, which throws a BlockError where there is none. */
export function findAuthorization(id: string, find: (id: string) => UserObject | undefined): Authorize {
  return (identity) => {
    const object = find(id);
    if (object === undefined) throw new BlockError('INVALID_ARGUMENT', `Authz object '${id}' does not exist`);
    return judge(object, identity);
  };
}

function judge({ type, properties }: UserObject, identity: string): boolean {
  if (type === 'authz-simple') return properties['identity'] === identity;
  if (type !== 'authz-list') return false;
  const rules = (properties['rules'] ?? []) as readonly Rule[];
  const rule = rules.find(({ match, format }) => (format === 'glob' ? globPattern(match).test(identity) : match === identity));
  return (rule?.policy ?? properties['policy']) === 'allow';
}

/** `*` and `?` as in file names, but without regard to slashes. */
function globPattern(glob: string): RegExp {
  const escaped = glob.replace(/[.+^${}()|[\]\\]/g, '\\$&');
  return new RegExp(`^${escaped.replaceAll('*', '.*').replaceAll('?', '.')}$`, 's');
}
