/** Text of which every byte must survive, as strings of one character for each byte. */

export function latin1(bytes: Uint8Array): string {
  const pieces: string[] = [];
  for (let at = 0; at < bytes.length; at += 4096) pieces.push(String.fromCharCode(...bytes.subarray(at, at + 4096)));
  return pieces.join('');
}

/** The UTF-8 bytes of a text, one character for each. */
export function utf8AsLatin1(text: string): string {
  return latin1(new TextEncoder().encode(text));
}
