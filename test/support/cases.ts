/** Where `npm test` takes a share of the cases, or less data, `npm run test:full` takes all: it sets `VDISK_CASES=all`. */
export const allCases = process.env['VDISK_CASES'] === 'all';

/** One case in so many, from the first on; all of them in the full run. */
export function share<Case>(cases: readonly Case[], step: number): readonly Case[] {
  return allCases ? cases : cases.filter((_, index) => index % step === 0);
}
