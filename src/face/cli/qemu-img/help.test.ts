import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { createRegistry } from '../../../drivers.js';
import { helpText, ownVersionText } from './help.js';

it('names the version of the package', () => {
  const { version } = JSON.parse(readFileSync(new URL('../../../../package.json', import.meta.url), 'utf8')) as { version: string };
  expect(ownVersionText()).toContain(`vdisk ${version} `);
});

it('lists the drivers there are, as scripts look for them', () => {
  const line = /^Supported formats: (.*)$/m.exec(helpText())?.[1];
  const drivers = [...createRegistry()].map(({ name }) => name).filter((name) => name !== 'memory').sort();
  expect(line?.split(' ')).toEqual(drivers);
});
