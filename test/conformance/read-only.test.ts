/** Formats that are only read, on disks of zeroes. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import { afterAll, describe, it } from 'vitest';
import { allDrivers } from '../../src/drivers.js';
import { conformanceCases } from '../../src/testing/conformance.js';
import { makeDmg } from '../support/dmg-maker.js';

const size = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), 'vdisk-conformance-'));
afterAll(() => rmSync(folder, { recursive: true }));

function bochsImage(): Uint8Array {
  const image = Buffer.alloc(512 + 16 * 4 + 512 + 65_536);
  image.write('Bochs Virtual HD Image', 0);
  image.write('Redolog', 32);
  image.write('Growing', 48);
  for (const [offset, value] of [[64, 0x20000], [68, 512], [72, 16], [76, 16], [80, 65_536], [88, size]] as const) image.writeUInt32LE(value, offset);
  image.fill(0xff, 512, 512 + 16 * 4);
  image.writeUInt32LE(0, 512 + 3 * 4);
  image.fill(0xf0, 576, 576 + 16);
  return image;
}

function cloopImage(): Uint8Array {
  const block = deflateSync(new Uint8Array(65_536));
  const blocks = size / 65_536;
  const head = Buffer.alloc(136 + (blocks + 1) * 8);
  head.write('#!/bin/sh\n#V2.0 Format\n', 0);
  head.writeUInt32BE(65_536, 128);
  head.writeUInt32BE(blocks, 132);
  for (let index = 0; index <= blocks; index++) head.writeBigUInt64BE(BigInt(head.length + index * block.length), 136 + index * 8);
  return Buffer.concat([head, ...new Array<Buffer>(blocks).fill(block)]);
}

const quarter = new Uint8Array(size / 4);
const images: Readonly<Record<string, () => Uint8Array>> = {
  bochs: bochsImage,
  cloop: cloopImage,
  dmg: () => makeDmg((['raw', 'zlib', 'zero', 'lzfse'] as const).map((kind) => ({ kind, data: quarter }))),
};

for (const [driver, image] of Object.entries(images)) {
  describe(driver, () => {
    const filename = join(folder, driver);
    writeFileSync(filename, image());
    for (const { name, run } of conformanceCases({
      drivers: allDrivers, size, persistent: true,
      fresh: async (wrap) => ({ driver, 'read-only': true, file: wrap({ driver: 'file', filename, 'read-only': true }) }),
    })) it(name, run);
  });
}
