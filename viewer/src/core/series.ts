/** The lines of the line plot: one token's values over the layers, per variant and run. */

import { index, type Run, type TokenInfo } from "../data/types.ts";
import { carried } from "./align.ts";
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
  /** Of the token in this run. */
  position: number | null;
  /** Which of the further tokens it is; null: the first one. */
  also: { nth: number; token: TokenInfo } | null;
  /** The token that names the line, where there are several. */
  named: TokenInfo | null;
}

/** The chosen heads with one more or one less; the oldest leaves when there are too many. */
export function toggled(heads: number[], head: number): number[] {
  return heads.includes(head) ? heads.filter((each) => each !== head) : [...heads, head].slice(-HEAD_LIMIT);
}

/** A token, where it stands in each of the shown runs (null: it does not), and why its lines are shown. */
export interface Target {
  token: TokenInfo;
  positions: (number | null)[];
  why: "selected" | "hovered" | "strongest";
}

/** Whose lines are shown: the selected token, else the one pointed at, else the most important one. */
export function target(scene: Scene): Target | null {
  const { run, runs, state, selected, pointed } = scene;
  const of = (positions: (number | null)[], why: Target["why"]): Target | null => {
    const token = tokenOf(runs, positions);
    return token && { token, positions, why };
  };
  const found = of(placesOf(selected, 0), "selected") ?? of(pointed, "hovered");
  if (found) return found;
  const strongest = ranked(scene, () => true)[0];
  if (strongest === undefined) return null;
  const { position } = run.tokens[strongest];
  return of(
    runs.map((each) => carried(run, each, state.align, position)),
    "strongest",
  );
}

const placesOf = (selected: Scene["selected"], nth: number) => selected.map((positions) => positions[nth] ?? null);

/** As the first run that has it knows it. */
function tokenOf(runs: Run[], positions: (number | null)[]): TokenInfo | null {
  return runs.flatMap((run, i) => run.tokens[tokenIndex(run, positions[i])] ?? [])[0] ?? null;
}

/** Full, Attn and other whole vectors, the chosen heads, and the head on the page: of self- or of cross-attention, as that is. */
export function lineVariants(run: Run, state: State): string[] {
  const cross = crossing(state.variant);
  const heads = new Set(state.heads.slice(0, HEAD_LIMIT).map((head) => `${cross}Head_${head}`)).add(state.variant);
  return run.variants.filter((variant) => (isHead(variant) ? heads.has(variant) : crossing(variant) === cross));
}

/** One line per run and variant of a token, and one per run, of the shown variant, of each further token that is selected. */
export function seriesOf(scene: Scene, { positions, token }: Pick<Target, "positions" | "token">): Series[] {
  const { runs, state, selected } = scene;
  const lines = runs.flatMap((run, runPlace) =>
    lineVariants(run, state).map((variant) => seriesAt(scene, runPlace, variant, positions[runPlace], null)),
  );
  const many = Math.min(HEAD_LIMIT, (selected[0]?.length ?? 1) - 1);
  if (many < 1) return lines;
  const others = Array.from({ length: many }, (_, nth) => placesOf(selected, nth + 1));
  const also = others.flatMap((each, nth) => {
    const other = tokenOf(runs, each);
    return other
      ? runs.map((_, place) => seriesAt(scene, place, state.variant, each[place], { nth, token: other }))
      : [];
  });
  const main = lines.filter(({ variant }) => variant === state.variant).map((line) => ({ ...line, named: token }));
  return [...main, ...also];
}

/** Of NaN where the run does not have the position or the step. */
function seriesAt(
  { runs, state }: Scene,
  runPlace: number,
  variant: string,
  position: number | null,
  also: Series["also"],
): Series {
  const run = runs[runPlace],
    token = tokenIndex(run, position),
    { step } = places(run, state);
  const start = token < 0 || step < 0 ? NaN : index(run, step, run.variants.indexOf(variant), 0, token);
  const values = Float32Array.from(
    run.layers,
    (_, layer) => run.values[state.metric]?.[start + layer * run.tokens.length] ?? NaN,
  );
  return { run, runPlace, variant, layers: run.layers, values, position, also, named: also?.token ?? null };
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
