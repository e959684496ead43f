/**
 * What is worth saying first about a run: which tokens single layers read for the token of this step, where in the picture,
 * and what the answer is without the unit that it needs most. Made from the numbers alone.
 */

import { partsOf } from "../data/effects.ts";
import type { Run, TokenInfo } from "../data/types.ts";
import { CHANGES, effectOn, layersOf, shownEffects, unitToken, type Shown } from "./effects.ts";
import { tells } from "./effect-units.ts";
import { promptText, ranked, scores, type Compared } from "./prompt-text.ts";
import { isNoise } from "./scene.ts";
import { templatePositions } from "./template.ts";

/** A token that a layer reads: the layer with its largest value. */
export interface Read {
  token: TokenInfo;
  layer: number;
  value: number;
}

export interface Story {
  /** Words, by layer; a patch; and a token of the template that is read more than any word. */
  words: Read[];
  patch: Read | null;
  /** Of a vision tower: what the other patches read most, in this order. */
  tower: Read[] | null;
  template: Read | null;
  lost: Lost | null;
  /** Effects were measured, and none of them changes the answer's probability by CHANGES or more. */
  robust: boolean;
}

/** What hiding a unit does to the answer. */
export interface Lost {
  token: TokenInfo;
  /** The token is the name of a route. */
  isRoute: boolean;
  /** "head 5 of layer 3", if it was hidden from that alone; of a route its layers, if there are several. */
  where: string | null;
  before: number;
  after: number;
  /** What is likeliest then; null: still the same. */
  then: string | null;
}

const FEW = 3; // words in the sentence
const MUCH = 1 / 3; // of the first one's value, to be named with it

export function story(scene: Compared): Story {
  const { run } = scene,
    template = templatePositions(run);
  const read = (wanted: (token: TokenInfo) => boolean) => reads(scene, wanted);
  const isWord = ({ kind, position }: TokenInfo) => kind === "text" && !template.has(position);
  const words = read(isWord);
  const patches = read(({ kind }) => kind === "image"),
    isTower = run.manifest?.tower === "vision";
  const [special] = read(({ kind, position }) => kind !== "image" && template.has(position));
  const shown = shownEffects(scene);
  const lost = shown && mostLost(scene, shown);
  return {
    words: words
      .slice(0, FEW)
      .filter(({ value }) => Math.abs(value) >= MUCH * Math.abs(words[0].value))
      .sort((a, b) => a.layer - b.layer),
    patch: isTower ? null : (patches[0] ?? null),
    tower: isTower ? patches : null,
    template: special && Math.abs(special.value) > Math.abs(words[0]?.value ?? 0) ? special : null,
    lost: lost && lost.before - lost.after >= CHANGES ? lost : null,
    robust: !!lost && lost.before - lost.after < CHANGES,
  };
}

/** The ranking's, without what can be rounding. */
function reads(scene: Compared, wanted: (token: TokenInfo) => boolean): Read[] {
  const { value, peak, floor } = scores(scene);
  return ranked(scene, wanted)
    .filter((place) => value[place] !== 0 && !isNoise(value[place], floor))
    .slice(0, FEW)
    .map((place) => ({ token: scene.run.tokens[place], layer: peak[place], value: value[place] }));
}

/** The unit without which the answer is least likely, in its strongest layers. */
function mostLost({ run, state }: Compared, shown: Shown): Lost | null {
  let lost: Lost | null = null;
  const { windows } = shown.effects;
  const sizes = shown.units.map((_, place) =>
    Math.max(
      ...shown.values.slice(place * windows.length, (place + 1) * windows.length).map((value) => Math.abs(value) || 0),
    ),
  );
  const answer = run.manifest?.generated?.find(({ step }) => step === state.step)?.text;
  for (const [place, unit] of shown.units.entries()) {
    if (!tells(shown.nested[place], sizes, place)) continue;
    if (unit.positions[0] === 0 && unit.positions.length < 2) continue;
    for (const window of windows) {
      const found = effectOn(shown, unit.key, window);
      if (!found || (lost && found.before - found.after <= lost.before - lost.after)) continue;
      const then = answer !== undefined && found.top !== answer && shown.step === state.step ? found.top : null;
      const isRoute = !!unit.route,
        where = partsOf(window).length > 2 || (isRoute && windows.length > 1) ? layersOf(window) : null;
      lost = { token: unitToken(unit, run), isRoute, where, before: found.before, after: found.after, then };
    }
  }
  return lost;
}

/** A piece of a word with what it is a piece of: ["b", "all", ""] for "all" of "ball"; null where it is a word of its own. */
export function wordAround(run: Run, position: number): [before: string, piece: string, after: string] | null {
  const { tokens } = promptText(run);
  const place = tokens.findIndex(({ info }) => info.position === position);
  if (place < 0 || tokens[place].info.kind !== "text") return null;
  const joins = (left: number) =>
    tokens[left + 1]?.info.kind === "text" &&
    /[\p{L}\p{N}]$/u.test(tokens[left]?.info.text ?? "") &&
    /^[\p{L}\p{N}]/u.test(tokens[left + 1].info.text);
  let [first, last] = [place, place];
  while (first > 0 && place - first < 12 && joins(first - 1)) first--;
  while (last - place < 12 && joins(last)) last++;
  if (first === last) return null;
  const text = (from: number, to: number) =>
    tokens
      .slice(from, to)
      .map(({ info }) => info.text)
      .join("");
  return [text(first, place).trimStart(), tokens[place].info.text.trimStart(), text(place + 1, last + 1)];
}
