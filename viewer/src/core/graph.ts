/** A graph of who has what from whom: columns are tokens or sets of them, and a line goes up through the layers it is of. */

import type { TokenInfo } from "../data/types.ts";

export interface Line<Of> {
  /** No two lines of a graph have the same one. */
  key: string;
  /** Places of columns, and the points between layers where it begins and ends: 0 is before the first one. */
  from: number;
  bottom: number;
  to: number;
  top: number;
  value: number;
  of: Of;
}

export interface Graph<Of> {
  columns: TokenInfo[];
  layers: number[];
  /** The column and the text of what stands above the last layer. */
  says: { column: number; text: string };
  lines: Line<Of>[];
  /** How far up the state of a column is followed, by its place. */
  ways: Map<number, number>;
  largest: number;
  /** Values have two directions. */
  signed: boolean;
}

const MOST = 150; // lines: more are a tangle

/** What is at least a part of the largest; of more than can be told apart, `part` rises until they are few enough. */
export function fewEnough<Found>(part: number, find: (part: number) => Found, count: (found: Found) => number) {
  for (; ; part = Math.min(1, part * 1.2)) {
    const found = find(part);
    if (count(found) <= MOST || part === 1) return { found, part };
  }
}

export const bySize = (a: { value: number }, b: { value: number }) => Math.abs(b.value) - Math.abs(a.value);

/** A line with those below it that bring something to where it begins, along the strongest ones. */
export function chain<Of>(lines: Line<Of>[], line: Line<Of>): Line<Of>[] {
  const found = [line];
  for (;;) {
    const { bottom, from } = found.at(-1)!;
    const [next] = lines.filter((each) => each.top <= bottom && each.to === from).sort(bySize);
    if (!next) return found;
    found.push(next);
  }
}
