/** How a token is shaded by its importance: the same in the prompt, the ranking and their drawings. */

import { isFirst, JOINED } from "../core/aggregate.ts";
import { colourAt, css, isLight, paletteOf, share } from "../core/colour.ts";
import { inText, titleOf } from "../core/metrics.ts";
import {
  layerRange,
  otherToken,
  whyMissing,
  type Compared,
  type PromptToken,
  type Scores,
} from "../core/prompt-text.ts";
import { isNoise } from "../core/scene.ts";
import { label, named, number, signed } from "../core/tokens.ts";
import { isDifference, moreOrLess, percent, subject, variantName } from "../core/words.ts";

export interface Shade {
  /** Null: no value. */
  fill: string | null;
  /** Colour of text on it. */
  text: string;
  /** Colour of hatching on it, null: none. */
  hatch: string | null;
}

export const UNSHADED: Shade = { fill: null, text: "inherit", hatch: null };

/** What a shade depends on. */
type Shaded = { run: Compared["run"]; state: Pick<Compared["state"], "palette" | "curve" | "least" | "first"> };

export function shadeOf({ run, state }: Shaded, scores: Scores, place: number): Shade {
  const value = place < 0 ? NaN : scores.value[place];
  if (isNaN(value)) return UNSHADED;
  const token = run.tokens[place];
  const palette = paletteOf(state, scores.signed),
    kind = token.kind === "image" ? "image" : "text";
  const colour = colourAt(
    palette,
    share(value, scores[kind], { curve: state.curve, least: state.least }, scores.signed, scores.sizes?.[kind]),
  );
  const hatched = (isFirst(token) && !state.first) || isNoise(value, scores.floor);
  const light = isLight(colour);
  return { fill: css(colour), text: light ? "#000" : "#fff", hatch: hatched ? (light ? "#0006" : "#ffffff73") : null };
}

/** "mean L2 distance of Full over layers 2 to 5": what a shade stands for. */
export function measured(scene: Compared): string {
  const { run, runs, state } = scene;
  const [from, to] = layerRange(run, state);
  const all = from === run.layers[0] && to === run.layers[run.layers.length - 1];
  const layers = all ? `all ${run.layers.length} layers` : `layers ${from} to ${to}`;
  const name = `${inText(titleOf(run, state))} of ${variantName(state.variant)}`;
  const what =
    from === to
      ? `${name} in layer ${from}`
      : `${JOINED[state.join]} ${state.join === "root" ? "of " : ""}${name} over ${layers}`;
  return isDifference(state, runs) ? `${subject(scene)}, ${what}` : what;
}

/** A value as it is shown: with its sign if it is a difference. */
export const shownValue = (scores: { signed: boolean }, value: number) => (scores.signed ? signed : number)(value);

/** Everything about one token, as a sentence without its full stop. */
export function sentence(scene: Compared, scores: Scores, token: PromptToken): string {
  const { info, place, step, probability } = token,
    { state } = scene;
  const other = place < 0 ? null : otherToken(scene, place);
  const name = named(info, 24) + (other ? ` → ${label(other, 24)}` : "");
  const chance = step !== null && probability !== null ? `, generated with p ${percent(probability)}` : "";
  const value = place < 0 ? NaN : scores.value[place];
  if (isNaN(value)) return `${name}${chance}: ${whyMissing(scene, token)}`;
  if (scores.what)
    return `${name}: ${shownValue(scores, value)}, ${isNoise(value, scores.floor) ? "below the noise: " : ""}${scores.what}`;
  const notes = [
    scores.signed && moreOrLess(scene, value),
    isNoise(value, scores.floor) && "below the noise floor",
    isFirst(scene.run.tokens[place]) && !state.first && "outside of the scale",
    `${scores.signed ? "most apart " : state.join !== "max" ? "peak " : ""}in layer ${scores.peak[place]}`,
  ];
  return `${name}${chance}: ${shownValue(scores, value)}, ${notes.filter(Boolean).join(", ")}`;
}
