/** Which position reads which: query positions down, hidden tokens across, of one layer or of several joined. */

import { plainToken } from "../data/cube.ts";
import type { Queries, Run, TokenInfo } from "../data/types.ts";
import { layerRange, promptText, type Compared } from "./prompt-text.ts";
import { importance, noiseFloor } from "./scene.ts";

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

const known = new WeakMap<Queries, { key: string; reads: Reads }>();

/** Null: only the predicting positions were measured. */
export function reads({ run, state }: Pick<Compared, "run" | "state">): Reads | null {
  const { queries } = run;
  if (!queries) return null;
  const { metric, variant, layer, join, first, range } = state,
    [from, to] = layerRange(run, state);
  const key = [run.id, !run.manifest, metric, variant, layer, join, from, to, first, range].join();
  const last = known.get(queries);
  if (last?.key === key) return { ...last.reads, run };
  const { layers, tokens, variants } = run,
    T = tokens.length,
    Q = queries.positions.length;
  const block = (row: number) => {
    const start = (row * variants.length + variants.indexOf(variant)) * layers.length * T;
    return queries[metric].subarray(start, start + layers.length * T);
  };
  const values = new Float32Array(Q * T),
    place = layer === null ? -1 : layers.indexOf(layer);
  const peak = place < 0 ? new Int32Array(Q * T) : null;
  for (let row = 0; row < Q; row++) {
    if (place >= 0) values.set(block(row).subarray(place * T, (place + 1) * T), row * T);
    else {
      const joined = importance({ layers, tokens, values: block(row) }, { ...state, from, to });
      values.set(joined.value, row * T);
      peak!.set(joined.peak, row * T);
    }
  }
  const outside = first ? -1 : tokens.findIndex(({ position }) => position === 0);
  const most = (numbers: Float32Array, sofar = 0) => {
    for (let i = 0, token = 0; i < numbers.length; i++, token = token + 1 === T ? 0 : token + 1)
      if (numbers[i] > sofar && token !== outside) sofar = numbers[i];
    return sofar;
  };
  const rows = [...queries.positions.keys()];
  const largest =
    range === "row"
      ? Float32Array.from(rows, (row) => most(values.subarray(row * T, (row + 1) * T)))
      : Float32Array.of(place < 0 ? most(values) : rows.reduce((sofar, row) => most(block(row), sofar), 0));
  const infos = new Map(promptText(run).tokens.map(({ info }) => [info.position, info]));
  const found = {
    run,
    queries,
    rows: queries.positions.map((position) => infos.get(position) ?? plainToken(position, "")),
    tokens,
    values,
    peak,
    largest,
    outside,
    floor: noiseFloor(run, state),
  };
  known.set(queries, { key, reads: found });
  return found;
}
