/** Reads a whole text file of the host. Rejects with Node's own error. */
export async function readTextFile(filename: string): Promise<string> {
  const { readFile } = await import('node:fs/promises');
  return readFile(filename, 'utf8');
}
