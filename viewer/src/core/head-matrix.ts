/** Layers x heads of one token, or of the strongest token in each cell, and the order to show them in. */

import { index, type Run } from "../data/types.ts";
import { places, tokenIndex } from "./scene.ts";
import type { State } from "./state.ts";

export interface HeadMatrix {
  layers: number[];
  /** Numbers of the heads: 3 for Head_3. */
  heads: number[];
  /** [layer * heads.length + head]; NaN: not measured. */
  values: Float32Array;
  /** Place of the strongest token of each cell, -1: none. Null if a token is chosen. */
  strongest: Int32Array | null;
}

const computed = new WeakMap<Run, { key: string; matrix: HeadMatrix }>();

/** With state.token for that token, else for the strongest one per cell (position 0 only with state.first). */
export function headMatrix(run: Run, state: State): HeadMatrix {
  const key = [state.metric, state.step, state.token, state.first].join();
  const last = computed.get(run);
  if (last?.key === key) return last.matrix;
  const made = makeHeadMatrix(run, state);
  computed.set(run, { key, matrix: made });
  return made;
}

function makeHeadMatrix(run: Run, state: State): HeadMatrix {
  const variants = [...run.variants.keys()].filter((place) => headNumber(run.variants[place]) !== null);
  const heads = variants.map((place) => headNumber(run.variants[place])!);
  const values = new Float32Array(run.layers.length * heads.length).fill(NaN);
  const { step } = places(run, state);
  const token = tokenIndex(run, state.token);
  const strongest = token < 0 ? new Int32Array(values.length).fill(-1) : null;
  const skip = state.first ? -1 : tokenIndex(run, 0);
  const data = run[state.metric];
  for (let layer = 0; layer < run.layers.length && step >= 0; layer++) {
    for (let head = 0; head < heads.length; head++) {
      const start = index(run, step, variants[head], layer, 0);
      const cell = layer * heads.length + head;
      if (!strongest) {
        values[cell] = data[start + token];
        continue;
      }
      let best = -1;
      for (let each = 0; each < run.tokens.length; each++)
        if (each !== skip && data[start + each] >= (best < 0 ? 0 : data[start + best])) best = each;
      strongest[cell] = best;
      if (best >= 0) values[cell] = data[start + best];
    }
  }
  return { layers: run.layers, heads, values, strongest };
}

/** Number of a head variant; null: it is none. */
export function headNumber(variant: string): number | null {
  const found = /^Head_(\d+)$/.exec(variant);
  return found ? Number(found[1]) : null;
}

/** Sums over heads of each layer and over layers of each head; what is not measured counts as nothing. */
export function sums({ layers, heads, values }: HeadMatrix): { layers: Float64Array; heads: Float64Array } {
  const out = { layers: new Float64Array(layers.length), heads: new Float64Array(heads.length) };
  values.forEach((value, cell) => {
    if (Number.isNaN(value)) return;
    out.layers[Math.floor(cell / heads.length)] += value;
    out.heads[cell % heads.length] += value;
  });
  return out;
}

/** Places of rows (the last layer on top, or the largest sum) and columns (by number, or the largest sum first). */
export function order(matrix: HeadMatrix, layersBySum: boolean, headsBySum: boolean): { rows: number[]; columns: number[] } {
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
    if (value > most[cell % heads.length]) most[cell % heads.length] = value;
  });
  return [...heads.keys()].sort((a, b) => most[b] - most[a] || a - b).slice(0, count).map((place) => heads[place]);
}
