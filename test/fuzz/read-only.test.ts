/** Formats that are only read: their images are made here by hand, small ones of every kind of chunk. */
import { deflateSync } from 'node:zlib';
import { describe, it } from 'vitest';
import { bochs } from '../../src/format/bochs/index.js';
import { cloop } from '../../src/format/cloop/index.js';
import { dmg } from '../../src/format/dmg/index.js';
import { content } from '../support/disk-model.js';
import { makeDmg, type ChunkKind } from '../support/dmg-maker.js';
import { havePeers } from '../support/peers.js';
import { fuzzCases, surviveHostile } from './hostile.js';

const count = Math.ceil(fuzzCases / 10);

function bochsImage(): Uint8Array {
  const image = Buffer.alloc(512 + 64 * 4 + 3 * (512 + 65_536), 0);
  image.write('Bochs Virtual HD Image', 0);
  image.write('Redolog', 32);
  image.write('Growing', 48);
  for (const [offset, value] of [[64, 0x20000], [68, 512], [72, 64], [76, 16], [80, 65_536], [88, 4 << 20]] as const) image.writeUInt32LE(value, offset);
  image.fill(0xff, 512, 512 + 64 * 4);
  [0, 7, 63].forEach((extent, index) => {
    image.writeUInt32LE(index, 512 + extent * 4);
    image.fill(0xa5, 768 + index * 66_048, 768 + index * 66_048 + 16);
  });
  return image;
}

function cloopImage(): Uint8Array {
  const blocks = Array.from({ length: 16 }, (_, index) => deflateSync(content(index, 65_536)));
  const image = Buffer.alloc(136 + 17 * 8);
  image.write('#!/bin/sh\n#V2.0 Format\n', 0);
  image.writeUInt32BE(65_536, 128);
  image.writeUInt32BE(blocks.length, 132);
  let at = image.length;
  blocks.forEach(({ length }, index) => {
    image.writeBigUInt64BE(BigInt(at), 136 + index * 8);
    at += length;
  });
  image.writeBigUInt64BE(BigInt(at), 136 + blocks.length * 8);
  return Buffer.concat([image, ...blocks]);
}

describe('hostile images of formats that are only read', () => {
  it('bochs', () => surviveHostile(bochs, bochsImage(), count, { headerBytes: 600, writable: false }), 1_200_000);
  it('cloop', () => surviveHostile(cloop, cloopImage(), count, { headerBytes: 300, writable: false }), 1_200_000);
  describe.skipIf(!havePeers('bzip2', 'xz'))('dmg', () => {
    const kinds: readonly ChunkKind[] = ['raw', 'zero', 'adc', 'zlib', 'bzip2', 'lzfse', 'xz'];
    for (const tables of ['property list', 'resource fork'] as const) {
      const image = makeDmg(kinds.map((kind) => ({ kind, data: kind === 'zero' ? new Uint8Array(20_480) : content(3, 20_480) })), { tables });
      it(`chunks and tables, ${tables}`, () => surviveHostile(dmg, image, count, { headerBytes: image.length, writable: false }), 1_200_000);
      it(`the trailer, ${tables}`, () => surviveHostile(dmg, image, count, { targets: [{ offset: image.length - 512, length: 512 }], writable: false }), 1_200_000);
    }
  });
});
