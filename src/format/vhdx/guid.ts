/** GUIDs as Microsoft stores them: the first three groups little endian. In memory they are lower-case text. */

/** Text positions (two digits each) of the stored bytes. */
const order = [6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34];

export const nilGuid = '00000000-0000-0000-0000-000000000000';

export function readGuid(bytes: Uint8Array, at: number): string {
  const text = [...nilGuid];
  order.forEach((place, index) => {
    const digits = bytes[at + index]!.toString(16).padStart(2, '0');
    text[place] = digits[0]!;
    text[place + 1] = digits[1]!;
  });
  return text.join('');
}

export function writeGuid(bytes: Uint8Array, at: number, guid: string): void {
  order.forEach((place, index) => {
    bytes[at + index] = Number.parseInt(guid.slice(place, place + 2), 16);
  });
}

export function newGuid(): string {
  return crypto.randomUUID();
}
