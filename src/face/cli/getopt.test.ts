import { describe, expect, it } from 'vitest';
import { Getopt, GetoptError } from './getopt.js';

const definitions = ['f,format=', 'q,quiet', 'p', 'image-opts', 'force-share', 'output='];

function parse(...argv: string[]) {
  const getopt = new Getopt(argv, definitions, { program: 'info' });
  return { options: [...getopt].map(({ name, value }) => (value === undefined ? name : `${name}=${value}`)), operands: [...getopt.operands] };
}
function problem(...argv: string[]): GetoptError {
  try {
    parse(...argv);
  } catch (error) {
    if (error instanceof GetoptError) return error;
  }
  throw new Error('no complaint');
}

describe('Getopt', () => {
  it('permutes, clusters and takes arguments in every way', () => {
    expect(parse('a', '-qp', '-fraw', 'b', '-f', 'qcow2', '--format', 'x', '--format=y')).toEqual({
      options: ['quiet', 'p', 'format=raw', 'format=qcow2', 'format=x', 'format=y'], operands: ['a', 'b'],
    });
  });
  it('completes unique prefixes', () => {
    expect(parse('--im', '--out=json', '--forc').options).toEqual(['image-opts', 'output=json', 'force-share']);
  });
  it('stops at -- and takes - as an operand', () => {
    expect(parse('-', '--', '-q')).toEqual({ options: [], operands: ['-', '-q'] });
  });
  it('does not look behind operands when told not to permute', () => {
    const getopt = new Getopt(['a', '-q'], definitions, { permute: false });
    expect([...getopt]).toEqual([]);
    expect(getopt.operands).toEqual(['a', '-q']);
  });
  it.each<[string[], string, string, string]>([
    [['-z'], 'unknown', '-z', "invalid option -- 'z'"],
    [['-zf'], 'unknown', 'info', "invalid option -- 'z'"],
    [['-qz'], 'unknown', '-qz', "invalid option -- 'z'"],
    [['-f'], 'missing', '-f', "option requires an argument -- 'f'"],
    [['--zork'], 'unknown', '--zork', "unrecognized option '--zork'"],
    [['--zork=1'], 'unknown', '--zork=1', "unrecognized option '--zork=1'"],
    [['--fo=raw'], 'ambiguous', '--fo=raw', "option '--fo=raw' is ambiguous; possibilities: '--format' '--force-share'"],
    [['--out'], 'missing', '--out', "option '--output' requires an argument"],
    [['--image-opts=3'], 'unexpected', '--image-opts=3', "option '--image-opts' doesn't allow an argument"],
  ])('%j', (argv, kind, word, message) => {
    expect(problem(...argv)).toMatchObject({ problem: kind, word, message });
  });
});
