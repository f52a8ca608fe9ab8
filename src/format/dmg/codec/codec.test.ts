import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { content } from '../../../../test/support/disk-model.js';
import { encodeAdc } from '../../../../test/support/dmg-maker.js';
import { encodeLzfse, encodeLzfseBlock, encodeLzvnBlock } from '../../../../test/support/lzfse-encoder.js';
import { havePeers } from '../../../../test/support/peers.js';
import { systemBzip2, systemXz } from '../../../platform/system-codecs.js';
import { seededRandom } from '../../../testing/random.js';
import { decodeAdc } from './adc.js';
import { decodeBzip2 } from './bzip2.js';
import { decodeLzfse } from './lzfse.js';
import { decodeXz } from './xz.js';

const text = new TextEncoder().encode('references near and far, references short and long, references into what is being copied: '.repeat(200));
const samples: readonly (readonly [string, Uint8Array])[] = [
  ['nothing but zeroes', new Uint8Array(70_000)], ['text', text], ['noise', content(5, 30_000)], ['one byte', Uint8Array.of(7)],
  ['runs of every length', Uint8Array.from({ length: 33_000 }, (_, index) => Math.floor(Math.sqrt(index * 2)) & 0xff)],
  ['text and noise', Uint8Array.from([...text, ...content(6, 20_000), ...text])],
];

function tool(command: string, ...parameters: readonly string[]): (data: Uint8Array) => Uint8Array {
  return (input) => {
    const { status, stdout, stderr } = spawnSync(command, ['-c', ...parameters], { input, maxBuffer: 1 << 28 });
    if (status !== 0) throw new Error(stderr.toString());
    return stdout;
  };
}

const joinBlocks = (block: (data: Uint8Array) => Uint8Array) => (data: Uint8Array): Uint8Array => Uint8Array.from([...block(data), ...new TextEncoder().encode('bvx$')]);
const codecs: readonly { name: string; encode: (data: Uint8Array) => Uint8Array; decode: (source: Uint8Array, target: Uint8Array) => void; peer?: string }[] = [
  { name: 'ADC', encode: encodeAdc, decode: decodeAdc },
  { name: 'LZFSE', encode: encodeLzfse, decode: decodeLzfse },
  { name: 'LZFSE with entropy codes', encode: joinBlocks((data) => encodeLzfseBlock(data)), decode: decodeLzfse },
  // only our own encoder judges this one: 7-Zip 26.02 does not know the block, and no encoder is known to make it
  { name: 'LZFSE with plain tables', encode: joinBlocks((data) => encodeLzfseBlock(data, 'plain')), decode: decodeLzfse },
  { name: 'LZVN', encode: joinBlocks(encodeLzvnBlock), decode: decodeLzfse },
  { name: 'bzip2', encode: tool('bzip2'), decode: decodeBzip2, peer: 'bzip2' },
  { name: 'bzip2 in small blocks', encode: tool('bzip2', '-1'), decode: decodeBzip2, peer: 'bzip2' },
  { name: 'XZ', encode: tool('xz'), decode: decodeXz, peer: 'xz' },
  { name: 'XZ in blocks, other contexts', encode: tool('xz', '--block-size=8KiB', '--lzma2=preset=9e,lc=0,lp=3,pb=4'), decode: decodeXz, peer: 'xz' },
  { name: 'libbz2', encode: tool('bzip2'), decode: systemBzip2() ?? decodeBzip2, peer: 'bzip2' },
  { name: 'liblzma', encode: tool('xz'), decode: systemXz() ?? decodeXz, peer: 'xz' },
];

for (const { name, encode, decode, peer } of codecs) {
  describe.skipIf(peer !== undefined && !havePeers(peer))(name, () => {
    for (const [what, data] of samples) {
      it(`gives back ${what}`, () => {
        const target = new Uint8Array(data.length);
        decode(encode(data), target);
        expect(Buffer.compare(target, data)).toBe(0);
      });
    }

    it('ends with an error, or at least ends, where the data is damaged or cut', () => {
      const data = samples[5]![1];
      const packed = encode(data);
      const random = seededRandom(3);
      for (let turn = 0; turn < 60; turn++) {
        const broken = packed.slice(0, turn % 3 === 0 ? Math.floor(random() * packed.length) : packed.length);
        for (let n = 0; n < 3 && broken.length > 0; n++) broken[Math.floor(random() ** 2 * broken.length)] = Math.floor(random() * 256);
        try {
          decode(broken, new Uint8Array(data.length));
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          expect(error).not.toBeInstanceOf(TypeError);
        }
      }
      expect(() => decode(packed.subarray(0, packed.length >>> 1), new Uint8Array(data.length))).toThrow(Error);
    });
  });
}
