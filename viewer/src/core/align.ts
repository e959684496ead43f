/**
 * Which tokens of two runs are compared: those that are the same, in the same order, or those that stand at the same
 * position, whatever they are.
 */

import type { Run, TokenInfo } from "../data/types.ts";
import { tokenIndex } from "./scene.ts";
import type { State } from "./state.ts";

export type Align = State["align"];
type Aligned = Pick<Run, "tokens" | "manifest">;

const MOST = 16_000_000; // cells of the table of common tokens; larger parts are split at tokens that occur once
const known = new WeakMap<TokenInfo[], WeakMap<TokenInfo[], Map<string, Int32Array>>>();

/** For each token of `first` the place in `second.tokens` of the one it is compared with, -1: none. */
export const counterparts = (first: Aligned, second: Aligned, by: Align): Int32Array =>
  remembered(first, second, by, () => (by === "position" ? byPosition : byToken)(first, second));

/**
 * The position in another run of what stands at a position of the first one; null: nothing does. By token, what stands in
 * the place of tokens that are not the same counts, too, if it is as many tokens: "square" for "circle".
 */
export function carried(first: Aligned, second: Aligned, by: Align, position: number | null): number | null {
  const place = tokenIndex(first, position);
  if (place < 0) return null;
  if (first === second) return first.tokens[place].position;
  const matched = counterparts(first, second, by);
  const all = by === "position" ? matched : remembered(first, second, "gaps", () => paired(matched, second));
  return second.tokens[all[place]]?.position ?? null;
}

function remembered(first: Aligned, second: Aligned, what: string, make: () => Int32Array): Int32Array {
  const mine = known.get(first.tokens) ?? new WeakMap<TokenInfo[], Map<string, Int32Array>>();
  known.set(first.tokens, mine);
  const found = mine.get(second.tokens) ?? new Map<string, Int32Array>();
  mine.set(second.tokens, found);
  return found.get(what) ?? found.set(what, make()).get(what)!;
}

/** With the tokens between two matched ones, where both runs have as many of them there. */
function paired(matched: Int32Array, { tokens }: Aligned): Int32Array {
  const out = matched.slice();
  for (let from = 0, start = 0; from <= out.length; from++, start++) {
    let to = from;
    while (to < out.length && matched[to] < 0) to++;
    const end = to < out.length ? matched[to] : tokens.length;
    if (to - from === end - start) for (let i = from; i < to; i++) out[i] = start + i - from;
    [from, start] = [to, end];
  }
  return out;
}

/** Whether two tokens that are compared are the same one. */
export const isSame = (first: Aligned, a: TokenInfo, second: Aligned, b: TokenInfo) =>
  keyOf(first, a, second) === keyOf(second, b, first);

const byPosition = (first: Aligned, second: Aligned) =>
  Int32Array.from(first.tokens, ({ position }) => {
    const place = tokenIndex(second, position);
    return second.tokens[place]?.position === position ? place : -1;
  });

function byToken(first: Aligned, second: Aligned): Int32Array {
  const numbers = new Map<string, number>();
  const number = (key: string) => numbers.get(key) ?? numbers.set(key, numbers.size).get(key)!;
  const a = Int32Array.from(first.tokens, (token) => number(keyOf(first, token, second)));
  const b = Int32Array.from(second.tokens, (token) => number(keyOf(second, token, first)));
  const out = new Int32Array(a.length).fill(-1);
  match(a, b, [0, a.length], [0, b.length], out);
  return out;
}

/** Text and kind; of a patch the picture and its place in it. */
function keyOf(run: Aligned, { kind, text, image, row, col, position, members }: TokenInfo, other: Aligned): string {
  if (kind !== "image" || members) return `${kind} ${text}`;
  const sha = ({ manifest }: Aligned) => manifest?.images?.[image ?? 0]?.sha256;
  return [kind, image ?? 0, row ?? position, col, sha(other) && sha(run)].join();
}

type Part = [from: number, to: number];

/** The longest common subsequence of a part of each; of very long parts, one between the tokens that occur once in both. */
function match(a: Int32Array, b: Int32Array, [i, iEnd]: Part, [j, jEnd]: Part, out: Int32Array): void {
  for (; i < iEnd && j < jEnd && a[i] === b[j]; i++, j++) out[i] = j;
  for (; iEnd > i && jEnd > j && a[iEnd - 1] === b[jEnd - 1]; iEnd--, jEnd--) out[iEnd - 1] = jEnd - 1;
  if (i === iEnd || j === jEnd) return;
  if ((iEnd - i) * (jEnd - j) <= MOST) return matchAll(a.subarray(i, iEnd), b.subarray(j, jEnd), i, j, out);
  let [from, start] = [i, j];
  for (const [x, y] of anchors(a, b, [i, iEnd], [j, jEnd])) {
    match(a, b, [from, x], [start, y], out);
    out[x] = y;
    [from, start] = [x + 1, y + 1];
  }
  if (from > i) match(a, b, [from, iEnd], [start, jEnd], out);
}

function matchAll(a: Int32Array, b: Int32Array, x: number, y: number, out: Int32Array): void {
  const wide = b.length + 1,
    common = new Uint16Array((a.length + 1) * wide); // of what begins here
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i * wide + j] =
        a[i] === b[j]
          ? common[(i + 1) * wide + j + 1] + 1
          : Math.max(common[(i + 1) * wide + j], common[i * wide + j + 1]);
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) out[x + i++] = y + j++;
    else if (common[(i + 1) * wide + j] >= common[i * wide + j + 1]) i++;
    else j++;
  }
}

/** Tokens that occur once in both parts, in an order that both have. */
function anchors(a: Int32Array, b: Int32Array, [i, iEnd]: Part, [j, jEnd]: Part): [number, number][] {
  const once = (of: Int32Array, from: number, to: number) => {
    const places = new Map<number, number>();
    for (let at = from; at < to; at++) places.set(of[at], places.has(of[at]) ? -1 : at);
    return places;
  };
  const there = once(b, j, jEnd);
  const pairs = [...once(a, i, iEnd)].flatMap(([key, x]): [number, number][] => {
    const y = there.get(key) ?? -1;
    return x < 0 || y < 0 ? [] : [[x, y]];
  });
  return longestRise(pairs.sort((one, two) => one[0] - two[0]));
}

/** The longest run of pairs whose second numbers rise. */
function longestRise(pairs: [number, number][]): [number, number][] {
  const ends: number[] = [], // the pair with which a run of this length ends lowest
    before: number[] = [];
  pairs.forEach(([, y], place) => {
    let [low, high] = [0, ends.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (pairs[ends[middle]][1] < y) low = middle + 1;
      else high = middle;
    }
    before[place] = ends[low - 1] ?? -1;
    ends[low] = place;
  });
  const out: [number, number][] = [];
  for (let at = ends.at(-1) ?? -1; at >= 0; at = before[at]) out.unshift(pairs[at]);
  return out;
}
