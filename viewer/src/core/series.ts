/** The lines of the line plot: one token's values over the layers, per variant and run. */

import { index, type Run, type TokenInfo } from "../data/types.ts";
import { ranked } from "./prompt-text.ts";
import { places, tokenIndex, type Scene } from "./scene.ts";
import type { State } from "./state.ts";
import { crossing, isHead } from "./words.ts";

/** More lines of heads than this cannot be told apart. */
export const HEAD_LIMIT = 6;

export interface Series {
  run: Run;
  /** Place of the run among those shown. */
  runPlace: number;
  variant: string;
  layers: number[];
  /** As many as layers; NaN: not measured. */
  values: Float32Array;
}

/** The chosen heads with one more or one less; the oldest leaves when there are too many. */
export function toggled(heads: number[], head: number): number[] {
  return heads.includes(head) ? heads.filter((each) => each !== head) : [...heads, head].slice(-HEAD_LIMIT);
}

/** Whose lines are shown: the selected token, else the one pointed at, else the most important one. */
export function target(scene: Scene): { token: TokenInfo; why: "selected" | "hovered" | "strongest" } | null {
  const { run, state } = scene;
  const selected = tokenIndex(run, state.token);
  if (selected >= 0) return { token: run.tokens[selected], why: "selected" };
  const hovered = tokenIndex(run, scene.hover.token);
  if (hovered >= 0) return { token: run.tokens[hovered], why: "hovered" };
  const strongest = ranked(scene, () => true)[0];
  return strongest === undefined ? null : { token: run.tokens[strongest], why: "strongest" };
}

/** Full, Attn and other whole vectors, the chosen heads, and the head on the page: of self- or of cross-attention, as that is. */
export function lineVariants(run: Run, state: State): string[] {
  const cross = crossing(state.variant);
  const heads = new Set(state.heads.slice(0, HEAD_LIMIT).map((head) => `${cross}Head_${head}`)).add(state.variant);
  return run.variants.filter((variant) => (isHead(variant) ? heads.has(variant) : crossing(variant) === cross));
}

/** One line per run and variant, at one position; of NaN where the run does not have the position or the step. */
export function seriesOf({ runs, state }: Scene, position: number): Series[] {
  return runs.flatMap((run, runPlace) => {
    const token = tokenIndex(run, position);
    const { step } = places(run, state);
    return lineVariants(run, state).map((variant): Series => {
      const start = token < 0 || step < 0 ? NaN : index(run, step, run.variants.indexOf(variant), 0, token);
      const values = Float32Array.from(
        run.layers,
        (_, layer) => run.values[state.metric]?.[start + layer * run.tokens.length] ?? NaN,
      );
      return { run, runPlace, variant, layers: run.layers, values };
    });
  });
}

/** Places for labels that want to be at `wanted`, at least `gap` apart and between `low` and `high`; same order. */
export function apart(wanted: number[], gap: number, low: number, high: number): number[] {
  const order = [...wanted.keys()].sort((a, b) => wanted[a] - wanted[b]);
  const placed = order.map((each) => Math.min(Math.max(wanted[each], low), high));
  for (let i = 1; i < placed.length; i++) placed[i] = Math.max(placed[i], placed[i - 1] + gap);
  placed[placed.length - 1] = Math.min(placed[placed.length - 1], high);
  for (let i = placed.length - 2; i >= 0; i--) placed[i] = Math.min(placed[i], placed[i + 1] - gap);
  const out = new Array<number>(wanted.length);
  order.forEach((each, i) => (out[each] = placed[i]));
  return out;
}
