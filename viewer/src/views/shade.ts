/** How a token is shaded by its importance: the same in the prompt, the ranking and their drawings. */

import { colourAt, css, isLight, share } from "../core/colour.ts";
import { layerRange, whyMissing, type PromptToken, type Scores } from "../core/prompt-text.ts";
import type { State } from "../core/state.ts";
import { named, number } from "../core/tokens.ts";
import { METRICS, percent, variantName } from "../core/words.ts";
import type { Run } from "../data/types.ts";

export interface Shade {
  /** Null: no value. */
  fill: string | null;
  /** Colour of text on it. */
  text: string;
  hatched: boolean;
}

const NOTHING: Shade = { fill: null, text: "inherit", hatched: false };

export function shadeOf(run: Run, state: State, scores: Scores, place: number): Shade {
  const value = place < 0 ? NaN : scores.value[place];
  if (Number.isNaN(value)) return NOTHING;
  const { kind, position } = run.tokens[place];
  const colour = colourAt(state.palette, share(value, kind === "image" ? scores.image : scores.text, state.curve));
  const outside = position === 0 && !state.first;
  return { fill: css(colour), text: isLight(colour) ? "#000" : "#fff", hatched: outside || value < scores.floor };
}

/** "largest L2 distance of Full over layers 2 to 5": what a shade stands for. */
export function measured(run: Run, state: State): string {
  const [from, to] = layerRange(run, state);
  const all = from === run.layers[0] && to === run.layers[run.layers.length - 1];
  const layers = all ? `all ${run.layers.length} layers` : `layers ${from} to ${to}`;
  const name = `${METRICS[state.metric].replace(/^C/, "c")} of ${variantName(state.variant)}`;
  return from === to ? `${name} in layer ${from}` : `${state.join === "max" ? "largest" : "mean"} ${name} over ${layers}`;
}

/** Everything about one token, as a sentence without its full stop. */
export function sentence(run: Run, state: State, scores: Scores, token: PromptToken): string {
  const { info, place, step, probability } = token;
  const chance = step !== null && probability !== null ? `, generated with probability ${percent(probability)}` : "";
  const value = place < 0 ? NaN : scores.value[place];
  if (Number.isNaN(value)) return `${named(info)}${chance}: ${whyMissing(run, state, token)}`;
  const notes = [
    value < scores.floor && "below the noise floor",
    info.position === 0 && !state.first && "outside of the colour scale",
    state.join === "max" && `in layer ${scores.peak[place]}`,
    state.join === "mean" && `peak in layer ${scores.peak[place]}`,
  ];
  return `${named(info)}${chance}: ${number(value)}, ${notes.filter(Boolean).join(", ")}`;
}
