// Offers any disk image for download in another format, converted as it is sent:
//   node examples/serve-converted.mjs IMAGE [qcow2|raw] [PORT]
import { createServer } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { allowImplicitOpens, BlockGraph, createRegistry, streamImage } from 'vdisk';

const [image = 'disk.qcow2', format = 'qcow2', port = '8080'] = process.argv.slice(2);
const graph = new BlockGraph({ drivers: createRegistry(), gate: allowImplicitOpens });
const disk = await graph.openBackend(image, { readOnly: true });

const server = createServer(async (request, response) => {
  try {
    const stream = await streamImage(graph, disk, { format });
    response.writeHead(200, { 'content-type': 'application/octet-stream', ...(stream.length && { 'content-length': stream.length }) });
    await pipeline(stream.chunks(), response);
  } catch (error) {
    console.error(error.message);
    response.destroy();
  }
});
server.listen(Number(port), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/`));
process.once('SIGINT', async () => {
  server.close();
  await graph.close();
});
