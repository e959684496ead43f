/**
 * What the views are given: the runs that are shown, the state as it applies to them, and numbers derived from both.
 *
 * A Scene is made anew for every change and never altered. A view reads it, draws, and calls `Store.set` when the user
 * does something; it knows no other view.
 */

import { index, part, type Metric, type Neighbors, type Run, type TokenInfo } from "../data/types.ts";
import type { Matrix } from "./aggregate.ts";
import type { State } from "./state.ts";
import { isHead } from "./words.ts";

/** What the pointer is over; a preview of the selection. */
export interface Hover {
  token: number | null;
  layer: number | null;
}

export interface Scene {
  /** Everything that is loaded, and the places in it of what is shown. */
  library: Run[];
  /** What image tokens say, of all files that tell it. */
  neighbors?: Neighbors[];
  runs: Run[];
  /** The run in front: runs[0]. */
  run: Run;
  state: State;
  hover: Hover;
  /** Of each shown run, the positions of the tokens that are selected, and of the one that the pointer is over; null: it has
   * none of them. In the run in front they are those of `state` and `hover`. */
  selected: (number | null)[][];
  pointed: (number | null)[];
  /** The runs that are shown next to each other, which share their scales; this one alone where there are no others. */
  beside: Run[];
  /** Of the panels of a figure, above which the runs, their models and steps and the metric are told once. */
  isPanel?: boolean;
  dark: boolean;
}

/** A view on the page. */
export interface View {
  readonly element: HTMLElement;
  /** Show the scene; at most once per frame. */
  update(scene: Scene): void;
}

/** As it is drawn on paper, which has no dark theme. */
export function onPaper(scene: Scene): Scene {
  const { state } = scene;
  return { ...scene, dark: false, state: state.palette === "night" ? { ...state, palette: "tint" } : state };
}

/** The state with what this run does not have replaced by what it has. */
export function settled(state: State, run: Run, metrics: readonly Metric[] = run.metrics): State {
  const token = tokenIndex(run, state.token);
  const has = <T>(list: T[], wanted: T, other: T) => (list.includes(wanted) ? wanted : other);
  return {
    ...state,
    metric: has(
      metrics.map(({ name }) => name),
      state.metric,
      metrics[0].name,
    ),
    step: has(run.steps, state.step, run.steps[0]),
    variant: has(run.variants, state.variant, run.variants[0]),
    token: token < 0 ? null : run.tokens[token].position, // of a unit, whatever of it was chosen: its first
    layer: state.layer !== null && run.layers.includes(state.layer) ? state.layer : null,
  };
}

/** The places of a state's step, variant, layer and token in a run's lists; -1 where the run does not have it. */
export function places(run: Run, state: State): { step: number; variant: number; layer: number; token: number } {
  return {
    step: run.steps.indexOf(state.step),
    variant: run.variants.indexOf(state.variant),
    layer: state.layer === null ? -1 : run.layers.indexOf(state.layer),
    token: tokenIndex(run, state.token),
  };
}

const tokenPlaces = new WeakMap<TokenInfo[], Map<number, number>>();

/** The place in run.tokens of the token, or of the unit that has a token, at `position`; -1 if it was not masked. */
export function tokenIndex(run: Pick<Run, "tokens">, position: number | null): number {
  let known = tokenPlaces.get(run.tokens);
  if (!known) {
    const inside = run.tokens.flatMap(({ members = [] }, place) => members.map((member) => [member, place] as const));
    tokenPlaces.set(
      run.tokens,
      (known = new Map([...inside, ...run.tokens.map((token, place) => [token.position, place] as const)])),
    );
  }
  return position === null ? -1 : (known.get(position) ?? -1);
}

/** The metric of one variant and step, as a view into the run: no copy. A step the run does not have gives NaN. */
export function matrix(run: Run, state: State): Matrix {
  const { step, variant } = places(run, state);
  const size = run.layers.length * run.tokens.length;
  const start = step < 0 || variant < 0 ? -1 : index(run, step, variant, 0, 0);
  const values = start < 0 ? new Float32Array(size).fill(NaN) : part(run, state.metric, start, size);
  return { layers: run.layers, tokens: run.tokens, values };
}

/** Largest value of each row of [rows, columns], without `skip` (a column, or -1); 0 where there is none. */
export function rowMaxima(values: Float32Array, columns: number, skip: number): Float32Array {
  const maxima = new Float32Array(columns ? values.length / columns : 0);
  for (let place = 0; place < values.length; place++) {
    const row = (place / columns) | 0;
    if (place - row * columns !== skip && values[place] > maxima[row]) maxima[row] = values[place];
  }
  return maxima;
}

type Floored = Pick<State, "metric" | "variant"> & Partial<Pick<State, "join" | "from" | "to">>;

/**
 * The noise floor of a variant in a layer, or of the layers as they are joined: values below it can be rounding. 0 where it
 * is not known. Older runs have one for all layers.
 */
export function noiseFloor(
  run: Pick<Run, "manifest">,
  { metric, variant, join, from = null, to = null }: Floored,
  layer?: number,
): number {
  const { by_layer: fine, Full, Head } = run.manifest?.noise_floor ?? {};
  if (!fine?.values) return (isHead(variant) ? Head : Full)?.[metric] ?? 0;
  const [column, place] = [fine.variants?.indexOf(variant) ?? -1, fine.metrics?.indexOf(metric) ?? -1];
  const floors = fine.values.map((variants) => variants[column]?.[place] ?? 0);
  if (layer !== undefined) return floors[fine.layers?.indexOf(layer) ?? -1] ?? 0;
  const joined = floors.filter((_, row) => {
    const each = fine.layers?.[row] ?? row;
    return (from === null || each >= from) && (to === null || each <= to);
  });
  return join === "root" ? Math.hypot(...joined) : Math.max(0, ...joined);
}

/** Whether a value can be rounding. One of 0 is exact: there the mask changes nothing. */
export const isNoise = (value: number, floor: number) => value !== 0 && Math.abs(value) < floor;
