/** Drivers of encrypted images where nobody can create objects: they know one secret by themselves. */
import type { BlockDriver } from '../../src/block/driver.js';
import type { UserObject } from '../../src/block/objects.js';

const secret: UserObject = { type: 'secret', id: 'known', properties: { data: 'correct horse' } };

/** Its id. */
export const knownSecret = secret.id;

/** The driver, with the secret at hand whenever it creates or opens. */
export function withSecret(driver: BlockDriver): BlockDriver {
  const object = (id: string): UserObject | undefined => (id === secret.id ? secret : undefined);
  return {
    ...driver,
    open: (context) => driver.open({ ...context, object }),
    create: (target, options, context) => driver.create!(target, options, { ...context, object }),
  };
}
