// Prints a sector of any disk image: node examples/read-sector.mjs IMAGE [SECTOR]
import { allowImplicitOpens, BlockGraph, createRegistry } from 'vdisk';

const [image = 'disk.qcow2', sector = '0'] = process.argv.slice(2);
const graph = new BlockGraph({ drivers: createRegistry(), gate: allowImplicitOpens });
const disk = await graph.openBackend(image, { readOnly: true });
const bytes = new Uint8Array(512);
await disk.read(Number(sector) * 512, bytes);
console.log(`sector ${sector} of ${disk.size / 512}:`);
console.log(Buffer.from(bytes).toString('hex').replace(/(.{64})/g, '$1\n').trimEnd());
await graph.close();
