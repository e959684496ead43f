/**
 * What is chosen on the page: one flat object, shared by all views, kept in the URL fragment.
 *
 * Numbers are those of the file (layer 20 is 20, a token is its position), not indices, so that a state means the same
 * in every run it is applied to. What a run does not have is answered by `settled` in scene.ts, not stored.
 */

import { AGGREGATE, type Aggregate } from "./aggregate.ts";

/** What of an effect on the answer is shown; columns of NAME_effects. */
export type Measure = "logprob_change" | "kl" | "contrast_change" | "interaction";

export interface State {
  /** Places of the shown runs in the library, the first one is the one in front. */
  runs: number[];
  /** Several runs: next to each other, or the second minus the first. */
  compare: "side" | "difference";
  /** What is compared: the same tokens in the same order, or whatever stands at the same position. */
  align: "token" | "position";
  /** By its name in Run.metrics. */
  metric: string;
  variant: string;
  step: number;
  /** The position that reads, where others than the predicting one were measured; null: the predicting one. */
  query: number | null;
  /** What a row of the heat map is. */
  rows: "layers" | "tokens";
  /** Colours span all that is shown, or each row by itself. */
  range: "all" | "row";
  curve: "linear" | "sqrt" | "rank";
  /** Share of the largest value, under which nothing is coloured. */
  least: number;
  /** Whether position 0, which often just absorbs attention, is in the scale. */
  first: boolean;
  /** "night" is "tint" in the dark theme. */
  palette: "tint" | "night" | "cividis" | "viridis";
  /** Selected token (position) and layer; null: none. */
  token: number | null;
  layer: number | null;
  /** More selected tokens; and whose positions all these are: the place of a run among those shown. */
  also: number[];
  of: number;
  /** Heads in the line plot, by number. */
  heads: number[];
  /** Layers that count for the prompt's shading and the ranking: first and last, null for all; and how they are joined. */
  from: number | null;
  to: number | null;
  join: Aggregate;
  /** Picture: share of the colour over the picture, 0 to 1; image tokens folded into one block in the heat map. */
  opacity: number;
  /** The same of the picture in which image tokens say something: little, since words stand in the patches. */
  wash: number;
  fold: boolean;
  /** Of a video, the frame that is shown large, by its number among the pictures; null: the one with the selected patch, else
   * with the strongest. */
  frame: number | null;
  /** DeepStack: the injection whose effects, patch by patch, colour the picture; null: none. */
  injection: number | null;
  /** A box drawn on a picture: picture, row and column of one corner, of the other; empty: none. */
  region: number[];
  /** Effects on the answer: the measure, who stops reading, the layers that stand for a unit ("2-5", "3-3.5" for a head,
   * "strongest" or "": all of them if masks were in all), the order of units. */
  effect: Measure;
  block: string;
  mask: string;
  order: "auto" | "position" | "strength";
  /** Effects on the token of the step that is shown, or on the whole answer, where they were summed up. */
  answer: "step" | "whole";
  /** What the prompt is shaded by. */
  shade: "impact" | "effect";
  /** Cells of the map of what each position reads that are large enough for a name in every row. */
  large: boolean;
  /** What was read, traced back: the part of what the predicting position reads most from which on a read is shown. */
  edges: number;
  /** Routes that were cut: the part of the largest effect from which on one is shown. */
  routes: number;
  /** Neighbours of image tokens: which of the loaded tables, the selected patch (position), what was searched ("merged", a
   * bank layer or "static"), what colours the patches, all ranks in every layer, and a word that is looked for. */
  lens: number;
  patch: number | null;
  near: string;
  tint: "similarity" | "bank" | "impact";
  ranks: boolean;
  find: string;
  /** Where runs and neighbours are open: what is shown of them. */
  tab: "all" | "runs" | "lens";
  theme: "auto" | "light" | "dark";
}

export const DEFAULTS: Readonly<State> = {
  runs: [0],
  compare: "side",
  align: "token",
  metric: "l2",
  variant: "Full",
  step: 0,
  query: null,
  rows: "layers",
  range: "all",
  curve: "linear",
  least: 0,
  first: false,
  palette: "tint",
  token: null,
  layer: null,
  also: [],
  of: 0,
  heads: [],
  from: null,
  to: null,
  join: AGGREGATE,
  opacity: 0.8,
  wash: 0.2,
  fold: false,
  frame: null,
  injection: null,
  region: [],
  effect: "logprob_change",
  block: "all",
  mask: "",
  order: "auto",
  answer: "step",
  shade: "impact",
  large: false,
  edges: 0.5,
  routes: 0.1,
  lens: 0,
  patch: null,
  near: "",
  tint: "similarity",
  ranks: false,
  find: "",
  tab: "all",
  theme: "auto",
};

const CHOICES: { [Key in keyof State]?: readonly State[Key][] } = {
  compare: ["side", "difference"],
  align: ["token", "position"],
  rows: ["layers", "tokens"],
  range: ["all", "row"],
  curve: ["linear", "sqrt", "rank"],
  palette: ["tint", "cividis", "viridis"],
  join: ["root", "max", "mean"],
  theme: ["auto", "light", "dark"],
  effect: ["logprob_change", "kl", "contrast_change", "interaction"],
  order: ["auto", "position", "strength"],
  answer: ["step", "whole"],
  shade: ["impact", "effect"],
  tint: ["similarity", "bank", "impact"],
  tab: ["all", "runs", "lens"],
};

/** "#metric=cosine&token=12": what differs from the defaults. */
export function toFragment(state: State): string {
  const parts = new URLSearchParams();
  for (const key of Object.keys(DEFAULTS) as (keyof State)[]) {
    const text = JSON.stringify(state[key]);
    if (text !== JSON.stringify(DEFAULTS[key]))
      parts.set(key, typeof state[key] === "string" ? String(state[key]) : text);
  }
  return parts.toString();
}

/** The state in a fragment; whatever is not a valid value is left at its default. */
export function fromFragment(fragment: string): State {
  const state: State = { ...DEFAULTS };
  for (const [key, text] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    if (!Object.hasOwn(DEFAULTS, key)) continue;
    const name = key as keyof State;
    const value = typeof DEFAULTS[name] === "string" ? text : parsed(text);
    if (valid(name, value)) Object.assign(state, { [name]: value });
  }
  return state;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function valid(name: keyof State, value: unknown): boolean {
  const whole = (each: unknown) => Number.isSafeInteger(each) && (each as number) >= 0;
  const choices = CHOICES[name] as readonly unknown[] | undefined;
  if (choices) return choices.includes(value);
  switch (name) {
    case "runs":
      return Array.isArray(value) && value.length > 0 && value.every(whole);
    case "region":
      return Array.isArray(value) && [0, 5].includes(value.length) && value.every(whole);
    case "heads":
    case "also":
      return Array.isArray(value) && value.every(whole);
    case "mask":
      return /^(strongest|\d+-\d+(\.\d+)?)$/.test(value as string);
    case "near":
      return /^(|merged|static|\d+)$/.test(value as string);
    case "find":
      return true;
    case "variant":
    case "metric":
    case "block":
      return typeof value === "string" && value !== "";
    case "step":
    case "lens":
    case "of":
      return whole(value);
    case "patch":
    case "query":
    case "token":
    case "layer":
    case "frame":
    case "injection":
    case "from":
    case "to":
      return value === null || whole(value);
    case "edges":
    case "routes":
    case "least":
    case "opacity":
    case "wash":
      return typeof value === "number" && value >= 0 && value <= 1;
    default:
      return typeof value === "boolean";
  }
}

/** The state with other values. Its own are read only when they are asked for, so a view depends on no more of them. */
export const withState = (state: State, other: Partial<State>): State =>
  Object.assign(Object.create(state) as State, other);
