/** Which position reads which: query positions down, hidden tokens across, of one layer or of several joined. */

import { plainToken } from "../data/cube.ts";
import type { Queries, Run, TokenInfo } from "../data/types.ts";
import { importance, isFirst } from "./aggregate.ts";
import { layerRange, promptText, type Compared } from "./prompt-text.ts";
import { noiseFloor } from "./scene.ts";
import type { State } from "./state.ts";
import { remembered } from "./track.ts";

export interface Reads {
  run: Run;
  queries: Queries;
  /** The tokens at the query positions. */
  rows: TokenInfo[];
  tokens: TokenInfo[];
  /** [row * tokens + token]; NaN where a query was not measured without the token, which mostly comes after it. */
  values: Float32Array;
  /** The layer of each value where layers are joined, else null. */
  peak: Int32Array | null;
  /** End of the scale, of each row or of all. Of one layer, that is the largest value of all layers: layers can be compared. */
  largest: Float32Array;
  /** Place of position 0 if it is outside of the scale, else -1. */
  outside: number;
  floor: number;
}

export const largestOf = ({ largest }: Reads, row: number) => largest[largest.length > 1 ? row : 0];

/** Null: only the predicting positions were measured. */
export function reads({ run, state }: Pick<Compared, "run" | "state">): Reads | null {
  const { queries, layers, tokens, variants, manifest } = run;
  // Whichever query position the page shows, these are the same.
  return (
    queries && { ...made({ queries, layers, tokens, variants, manifest, state }), run, rows: rowsOf(run, queries) }
  );
}

type Measured = Pick<Run, "layers" | "tokens" | "variants" | "manifest"> & { queries: Queries; state: State };

const made = remembered(makeReads, ({ queries }: Measured) => queries);

function makeReads(from: Measured): Omit<Reads, "run" | "rows"> {
  const { queries, tokens, state } = from,
    { first, range } = state;
  const T = tokens.length,
    Q = queries.positions.length;
  const { values, peak, block } = joined(from);
  const outside = first ? -1 : tokens.findIndex(isFirst);
  const most = (numbers: Float32Array, sofar = 0) => {
    for (let i = 0, token = 0; i < numbers.length; i++, token = token + 1 === T ? 0 : token + 1)
      if (Math.abs(numbers[i]) > sofar && token !== outside) sofar = Math.abs(numbers[i]);
    return sofar;
  };
  const rows = Array.from({ length: Q }, (_, row) => row);
  const largest =
    range === "row"
      ? Float32Array.from(rows, (row) => most(values.subarray(row * T, (row + 1) * T)))
      : Float32Array.of(peak ? most(values) : rows.reduce((sofar, row) => most(block(row), sofar), 0));
  return { queries, tokens, values, peak, largest, outside, floor: noiseFloor(from, state, state.layer ?? undefined) };
}

/** Of the chosen layer, or of all of them joined; and all values of a query, [layer * tokens + token]. */
function joined({ queries, layers, tokens, variants, state }: Measured) {
  const T = tokens.length,
    Q = queries.positions.length;
  const { metric, layer, join } = state,
    [from, to] = layerRange({ layers }, state),
    variant = variants.indexOf(state.variant);
  const all = queries.values[metric] ?? new Float32Array(Q * variants.length * layers.length * T).fill(NaN);
  const block = (row: number) => {
    const start = (row * variants.length + variant) * layers.length * T;
    return all.subarray(start, start + layers.length * T);
  };
  const values = new Float32Array(Q * T),
    place = layer === null ? -1 : layers.indexOf(layer);
  const peak = place < 0 ? new Int32Array(Q * T) : null;
  for (let row = 0; row < Q; row++) {
    if (place >= 0) values.set(block(row).subarray(place * T, (place + 1) * T), row * T);
    else {
      const found = importance({ layers, tokens, values: block(row) }, { join, from, to });
      values.set(found.value, row * T);
      peak!.set(found.peak, row * T);
    }
  }
  return { values, peak, block };
}

const rowTokens = new WeakMap<Run, TokenInfo[]>();

/** The tokens at the query positions. */
function rowsOf(run: Run, { positions }: Queries): TokenInfo[] {
  let found = rowTokens.get(run);
  if (!found) {
    const infos = new Map(promptText(run).tokens.map(({ info }) => [info.position, info]));
    rowTokens.set(run, (found = positions.map((position) => infos.get(position) ?? plainToken(position, ""))));
  }
  return found;
}
