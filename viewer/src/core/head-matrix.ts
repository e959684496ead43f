/** Layers x heads of one token, or of the strongest token in each cell, and the order to show them in. */

import { row, type Run } from "../data/types.ts";
import { isFirst } from "./aggregate.ts";
import { counterparts } from "./align.ts";
import type { Compared } from "./prompt-text.ts";
import { noiseFloor, tokenIndex } from "./scene.ts";
import type { State } from "./state.ts";
import { remembered } from "./track.ts";
import { crossing, isDifference, isHead } from "./words.ts";

export interface HeadMatrix {
  layers: number[];
  /** Numbers of the heads: 3 for Head_3. */
  heads: number[];
  /** [layer * heads.length + head]; NaN: not measured. */
  values: Float32Array;
  /** Noise floors of the cells; the larger one of two runs. */
  floors: number[];
  /** Place of the strongest token of each cell, -1: none. Null if a token is chosen. */
  strongest: Int32Array | null;
  /** Second run minus the first one. */
  signed: boolean;
}

/**
 * Heads of cross-attention if the chosen variant is of it, else of self-attention.
 * With state.token for that token, else for the strongest one per cell (position 0 only with state.first). In a
 * difference: second run minus the first one, and strongest is where they differ most.
 */
export const headMatrix = remembered(
  ({ run, runs, state }: Compared): HeadMatrix =>
    makeHeadMatrix(run, isDifference(state, runs) ? runs[1] : null, state),
  ({ run }) => run,
);

function makeHeadMatrix(run: Run, second: Run | null, state: State): HeadMatrix {
  const of = { metric: state.metric, step: state.step }; // read once, not for each cell
  const variants = run.variants.filter((variant) => isHead(variant) && crossing(variant) === crossing(state.variant));
  const values = new Float32Array(run.layers.length * variants.length).fill(NaN);
  const floors: number[] = [];
  const token = tokenIndex(run, state.token);
  const strongest = token < 0 ? new Int32Array(values.length).fill(-1) : null;
  const skip = state.first ? -1 : run.tokens.findIndex(isFirst);
  const same = second && counterparts(run, second, state.align);
  for (let cell = 0; cell < values.length; cell++) {
    const [layer, variant] = [run.layers[Math.floor(cell / variants.length)], variants[cell % variants.length]];
    const floorIn = (each: Run) => noiseFloor(each, { metric: of.metric, variant }, layer);
    floors[cell] = Math.max(floorIn(run), second ? floorIn(second) : 0);
    const one = rowOf(run, of, variant, layer),
      two = second && rowOf(second, of, variant, layer);
    const row = same ? two && one?.map((value, each) => (same[each] < 0 ? NaN : two[same[each]] - value)) : one;
    if (!row) continue;
    let best = token;
    if (strongest) {
      for (let each = 0; each < row.length; each++)
        if (each !== skip && Math.abs(row[each]) >= (best < 0 ? 0 : Math.abs(row[best]))) best = each;
      strongest[cell] = best;
    }
    if (best >= 0) values[cell] = row[best];
  }
  return {
    layers: run.layers,
    heads: variants.map((variant) => headNumber(variant)!),
    values,
    floors,
    strongest,
    signed: second !== null,
  };
}

/** The values of all tokens, null where the run has none. */
function rowOf(
  run: Run,
  { metric, step }: Pick<State, "metric" | "step">,
  variant: string,
  layer: number,
): Float32Array | null {
  const places = [run.steps.indexOf(step), run.variants.indexOf(variant), run.layers.indexOf(layer)] as const;
  return Math.min(...places) < 0 ? null : row(run, metric, ...places);
}

/** Number of a head variant; null: it is none. */
export function headNumber(variant: string): number | null {
  return isHead(variant) ? Number(variant.slice(variant.indexOf("_") + 1)) : null;
}

/** Sums of sizes over heads of each layer and over layers of each head; what is not measured counts as nothing. */
export function sums({ layers, heads, values }: HeadMatrix): { layers: Float64Array; heads: Float64Array } {
  const out = { layers: new Float64Array(layers.length), heads: new Float64Array(heads.length) };
  values.forEach((value, cell) => {
    if (isNaN(value)) return;
    out.layers[Math.floor(cell / heads.length)] += Math.abs(value);
    out.heads[cell % heads.length] += Math.abs(value);
  });
  return out;
}

/** Places of rows (the last layer on top, or the largest sum) and columns (by number, or the largest sum first). */
export function order(
  matrix: HeadMatrix,
  layersBySum: boolean,
  headsBySum: boolean,
): { rows: number[]; columns: number[] } {
  const total = sums(matrix);
  const rows = [...matrix.layers.keys()].reverse();
  const columns = [...matrix.heads.keys()];
  if (layersBySum) rows.sort((a, b) => total.layers[b] - total.layers[a]);
  if (headsBySum) columns.sort((a, b) => total.heads[b] - total.heads[a]);
  return { rows, columns };
}

/** The `count` heads with the largest value in any layer, strongest first. */
export function strongestHeads({ heads, values }: HeadMatrix, count: number): number[] {
  const most = new Float64Array(heads.length);
  values.forEach((value, cell) => {
    if (Math.abs(value) > most[cell % heads.length]) most[cell % heads.length] = Math.abs(value);
  });
  return [...heads.keys()]
    .sort((a, b) => most[b] - most[a] || a - b)
    .slice(0, count)
    .map((place) => heads[place]);
}
