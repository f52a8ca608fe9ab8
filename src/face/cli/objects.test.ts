import { beforeAll, describe, expect, it } from 'vitest';
import { addObject } from './objects.js';
import { captureOut, setProgram } from './output.js';

beforeAll(() => setProgram('qemu-img'));

// Texts of qemu-img 10.0.2.
describe('--object', () => {
  it.each([
    ['authz-simple,id=a', "Parameter 'identity' is missing"],
    ['authz-list,id=a,policy=foo', "Parameter 'policy' does not accept value 'foo'"],
    ['authz-list,id=a,rules.0.match=x', "Parameter 'rules.0.policy' is missing"],
    ['authz-list,id=a,rules.0.match=x,rules.0.policy=allow,rules.0.foo=1', "Parameter 'rules.0.foo' is unexpected"],
    ['authz-list,id=a,rules=x', "Invalid parameter type for 'rules', expected: array"],
    ['{"qom-type":"authz-simple","id":"a","identity":5}', "Invalid parameter type for 'identity', expected: string"],
    ['{"qom-type":"secret","id":5,"data":"5"}', "Invalid parameter type for 'id', expected: string"],
    ['authz-pam,id=a,service=x', 'invalid object type: authz-pam'],
    ['iothread,id=a', 'invalid object type: iothread'],
    ['tls-creds-x509,id=a,dir=.,verify-peer=maybe', "Parameter 'verify-peer' expects 'on' or 'off'"],
    ['throttle-group,id=a,x-iops-total=foo', "Parameter 'x-iops-total' expects integer"],
    ['secret,id=a,data=x,foo=1,bar=2', "Parameter 'bar' is unexpected"],
    ['qom-type=help', "Parameter 'qom-type' does not accept value 'help'"],
  ])('refuses %s', (text, message) => {
    expect(() => addObject(text)).toThrow(message);
  });

  it.each([
    ['secret,help', 'secret options:\n  data=<string>\n  file=<string>\n  format=<QCryptoSecretFormat>\n  iv=<string>\n  keyid=<string>\n'],
    ['authz-list,id=x,?', 'authz-list options:\n  policy=<QAuthZListPolicy>\n  rules=<QAuthZListRule>\n'],
  ])('shows what %s is made of', (text, help) => {
    const output = captureOut();
    expect(() => addObject(text)).toThrow(expect.objectContaining({ exitCode: 0 }));
    expect(output()).toBe(help);
  });

  it('lists the types', () => {
    const output = captureOut();
    expect(() => addObject('help')).toThrow(expect.objectContaining({ exitCode: 0 }));
    expect(output()).toMatch(/^List of user creatable objects:\n {2}authz-list\n.* {2}tls-creds-x509\n$/s);
    expect(output()).not.toContain('iothread');
  });
});
