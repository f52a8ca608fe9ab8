import { describe, expect, it } from 'vitest';
import type { UserObject } from '../block/objects.js';
import { findAuthorization } from './authorization.js';

function judge(type: string, properties: UserObject['properties'], identity: string): boolean {
  return findAuthorization('a', () => ({ type, id: 'a', properties }))(identity);
}

describe('authorization', () => {
  it('knows one name exactly', () => {
    expect(judge('authz-simple', { identity: 'CN=me' }, 'CN=me')).toBe(true);
    expect(judge('authz-simple', { identity: 'CN=me' }, 'CN=me2')).toBe(false);
  });

  it('goes by the first rule that fits, then by the policy, which denies', () => {
    const rules = [
      { match: 'CN=bad,O=us', policy: 'deny' }, { match: 'CN=*,O=us', policy: 'allow', format: 'glob' }, { match: 'CN=a?c', policy: 'allow' },
    ];
    expect(judge('authz-list', { rules }, 'CN=bad,O=us')).toBe(false);
    expect(judge('authz-list', { rules }, 'CN=good,O=us')).toBe(true);
    expect(judge('authz-list', { rules }, 'CN=good,O=us2')).toBe(false);
    expect(judge('authz-list', { rules }, 'CN=abc')).toBe(false);
    expect(judge('authz-list', { rules, policy: 'allow' }, 'CN=abc')).toBe(true);
    expect(judge('authz-list', { rules: [{ match: 'a.b', policy: 'allow', format: 'glob' }] }, 'axb')).toBe(false);
  });

  it('lets nobody in by an object of another kind', () => {
    expect(judge('secret', { data: 'CN=me', identity: 'CN=me' }, 'CN=me')).toBe(false);
  });

  it('complains of an object that is not there', () => {
    expect(() => findAuthorization('a', () => undefined)('CN=me')).toThrow("Authz object 'a' does not exist");
  });
});
