/** What masks do to the answer, as it is shown: one measure, block and step; and beside the largest single-layer value. */

import { plainToken } from "../data/cube.ts";
import { partsOf } from "../data/effects.ts";
import { membersOf } from "../data/manifest.ts";
import { ROUTE } from "../data/routes.ts";
import type { Effects, Run, TokenInfo } from "../data/types.ts";
import type { Compared, Scores } from "./prompt-text.ts";
import { importance, isFirst } from "./aggregate.ts";
import { nested, parentsOf, type Nested } from "./effect-units.ts";
import { isNoise, matrix, tokenIndex } from "./scene.ts";
import type { Measure, State } from "./state.ts";
import { named, number, signed, visible } from "./tokens.ts";
import { remembered } from "./track.ts";
import { isDifference } from "./words.ts";

export const MEASURES: Record<Measure, string> = {
  logprob_change: "change of log-probability",
  kl: "KL divergence",
  contrast_change: "change of the contrast",
  interaction: "interaction",
};

/** The layers of `state.mask` that stand for each unit's strongest ones. */
export const STRONGEST = "strongest";

/** The generation step of rows about the whole answer. */
export const WHOLE = -1;

export interface Shown {
  effects: Effects;
  measures: Measure[];
  measure: Measure;
  block: string;
  /** The generation step, or WHOLE. */
  step: number;
  /** Place in effects.windows of the layers that stand for a unit, -1: its strongest. */
  window: number;
  /** They were chosen. */
  isChosen: boolean;
  /** By position, those that have a value; with what stands for each. Of units from coarse to fine, all levels if the manifest
   * tells which is a part of which, else those that were not split. */
  units: (Effects["units"][number] & { positions: number[]; row: number; value: number; strongest: string })[];
  /** By place in `units`. */
  nested: Nested[];
  /** There are units that were split and are not shown. */
  hidesSplit: boolean;
  /** [unit * windows + window] */
  values: number[];
  /** Largest size, without position 0 unless state.first. */
  largest: number;
  /** Has two directions: below 0 the mask costs the answer. */
  signed: boolean;
  /** Changes of logits under it are rounding; 0 where it is not known. */
  floor: number;
}

const span = (window: string) => {
  const [first, last] = partsOf(window);
  return last - first;
};

/** Null: this run has no effects. Next to other runs that have them, all are on one scale. */
export function shownEffects({ run, state, beside = [] }: Omit<Compared, "runs">): Shown | null {
  const of = ({ effects, manifest }: Run) => effects && made({ effects, manifest, state });
  const own = of(run);
  if (!own || beside.length < 2) return own;
  const peers = beside.map(of).filter((each) => each?.measure === own.measure);
  return scaledTo(own, Math.max(...peers.map((each) => each!.largest)));
}

const scaledOnes = new WeakMap<Shown, Shown>();

/** The same one for the same scale: others remember what they have made of it. */
function scaledTo(own: Shown, largest: number): Shown {
  if (largest <= own.largest) return own;
  const before = scaledOnes.get(own);
  if (before?.largest === largest) return before;
  const made = { ...own, largest };
  scaledOnes.set(own, made);
  return made;
}

interface Measured {
  effects: Effects;
  manifest: Run["manifest"];
  state: State;
}

const made = remembered(makeShown, ({ effects }: Measured) => effects);

function makeShown({ effects, manifest, state }: Measured): Shown {
  const { numbers, blocks, windows, rows } = effects;
  const measures = (Object.keys(MEASURES) as Measure[]).filter((each) => numbers[each]);
  const measure = measures.includes(state.effect) ? state.effect : measures[0];
  const block = blocks.includes(state.block) ? state.block : blocks[0];
  const step = state.answer === "whole" && effects.steps.includes(WHOLE) ? WHOLE : state.step;
  // Without a choice the widest layers; if there are several as wide, the strongest.
  const [widest, next] = windows.toSorted((a, b) => span(b) - span(a));
  const chosen =
    windows.includes(state.mask) || state.mask === STRONGEST
      ? state.mask
      : next && span(next) === span(widest)
        ? STRONGEST
        : widest;
  const window = windows.indexOf(chosen);
  const members = membersOf({ units: manifest?.effects?.refine?.units ?? manifest?.units });
  const values: number[] = [],
    units: Shown["units"] = [];
  let largest = 0;
  const parents = parentsOf(effects.units, manifest);
  for (const unit of effects.units) {
    if (unit.split && !parents) continue;
    const at = windows.map((each) => rows.get([step, block, each, unit.key].join()) ?? -1);
    // A pair is shown by its interaction; what it does as a whole is said, too.
    const pair = numbers.interaction && at.some((row) => numbers.interaction![row] > -Infinity);
    const own = at.map((row) => (!pair === (measure === "interaction") ? NaN : (numbers[measure]![row] ?? NaN)));
    const sizes = own.map((value) => Math.abs(value) || 0),
      most = Math.max(...sizes);
    if (own.every((value) => isNaN(value))) continue;
    const masked = unit.route ? unit.route.source.positions : members({ position: unit.position, text: unit.label });
    const positions = masked?.length ? masked : [unit.position];
    if (state.first || !isFirst({ position: unit.position, members: positions })) largest = Math.max(largest, most);
    const place = window < 0 ? sizes.indexOf(most) : window;
    units.push({
      ...unit,
      positions,
      row: at[place],
      value: own[place],
      strongest: windows[place],
    });
    values.push(...own);
  }
  const floor = measure === "kl" ? 0 : (manifest?.effects?.noise?.logit ?? 0);
  const isChosen = windows.includes(state.mask);
  return {
    effects,
    measures,
    measure,
    block,
    step,
    window,
    isChosen,
    units,
    nested: nested(units, parents),
    hidesSplit: !parents && effects.units.some(({ split }) => split),
    values,
    largest,
    signed: measure !== "kl",
    floor,
  };
}

/** "change of log-probability with the unit hidden from every later position in layers 0 to 3" */
export function effectWords(
  { effects, measure, block, step, window }: Shown,
  { manifest }: Run,
  layers = where(effects.windows[window]),
): string {
  const [first, second] = manifest?.effects?.contrast ?? [];
  const contrast =
    measure === "contrast_change" && second
      ? ` (log-probability of ${visible(first)} minus that of ${visible(second)})`
      : "";
  const answer = step === WHOLE ? " of the whole answer" : "";
  const masked = block === ROUTE ? "the route cut" : `the unit hidden from ${readersOf(block)}`;
  return `${MEASURES[measure]}${answer}${contrast} with ${masked} ${layers}`;
}

const BLOCKS: Record<string, string> = { last: "the predicting position", all: "every later position" };

/** Who stops reading, by the name in the table. */
export const readersOf = (block: string) => BLOCKS[block] ?? `the positions “${visible(block)}”`;

/** What is masked, in words. */
export const kindOf = ({ block }: Pick<Shown, "block">) => (block === ROUTE ? "route" : "unit");

/** "layers 2 to 5", "layer 3", "head 5 of layer 3" */
export function layersOf(window: string): string {
  const [first, last, head] = partsOf(window);
  if (head !== undefined) return `head ${head} of layer ${first}`;
  return first === last ? `layer ${first}` : `layers ${first} to ${last}`;
}

export const where = (window: string | undefined) => `in ${window ? layersOf(window) : "its strongest layers"}`;

/** Of a probability: a mask that changes it by less is not worth a look. */
export const CHANGES = 0.001;

/** Places of the units in the order shown, the strongest first unless another order was chosen. */
export function unitOrder({ units, values, isChosen, effects: { windows } }: Shown, order: string): number[] {
  const places = [...units.keys()];
  if (order === "position") return places;
  const most = places.map((place) =>
    isChosen
      ? Math.abs(units[place].value) || 0
      : Math.max(
          ...values.slice(place * windows.length, (place + 1) * windows.length).map((value) => Math.abs(value) || 0),
        ),
  );
  return places.sort((a, b) => most[b] - most[a]);
}

const known = new WeakMap<Shown, Map<string, boolean>>();

/** Whether a mask of the unit, in any of the layers, changes the answer's probability by CHANGES or more. */
export function changes(shown: Shown, { key }: { key: string }): boolean {
  let found = known.get(shown);
  if (!found) known.set(shown, (found = new Map()));
  if (!found.has(key)) {
    const falls = shown.effects.windows.map((window) => effectOn(shown, key, window));
    found.set(
      key,
      falls.some((each) => each !== null && Math.abs(each.before - each.after) >= CHANGES),
    );
  }
  return found.get(key)!;
}

/** What one mask does to the answer's probability, and what is likeliest then; null: not measured. */
export function effectOn(
  { effects: { rows, numbers, top }, block, step }: Pick<Shown, "effects" | "block" | "step">,
  key: string,
  window: string,
): { before: number; after: number; top: string } | null {
  const row = rows.get([step, block, window, key].join());
  const [logprob, change] = [numbers.logprob?.[row ?? -1], numbers.logprob_change?.[row ?? -1]];
  if (row === undefined || !(change! > -Infinity)) return null;
  return { before: Math.exp(logprob! - change!), after: Math.exp(logprob!), top: top[row] };
}

// --- the prompt ----------------------------------------------------------------------------------
/** The value of each of the run's tokens by the smallest unit it is in, of several as small the strongest; null where the prompt is not shaded by effects. */
export const effectScores = remembered(makeEffectScores, ({ run }: Compared) => run);

function makeEffectScores(scene: Compared): Scores | null {
  const { run, runs, state } = scene;
  const shown = state.shade === "effect" && !isDifference(state, runs) ? shownEffects(scene) : null;
  if (!shown) return null;
  const value = new Float32Array(run.tokens.length).fill(NaN);
  const size = ({ value }: Shown["units"][number]) => Math.abs(value) || 0;
  for (const unit of shown.units.toSorted((a, b) => b.positions.length - a.positions.length || size(a) - size(b))) {
    for (const position of unit.positions) value[tokenIndex(run, position)] = unit.value; // at -1: nothing
  }
  const end = (image: boolean) =>
    run.tokens.reduce(
      (most, { kind, position, members }, place) =>
        (kind === "image") === image && (state.first || !isFirst({ position, members }))
          ? Math.max(most, Math.abs(value[place]) || 0)
          : most,
      0,
    );
  return {
    value,
    peak: new Int32Array(value.length),
    text: end(false),
    image: end(true),
    floor: shown.floor,
    signed: shown.signed,
    what: effectWords(shown, run),
    of: shown,
  };
}

// --- effect and impact ---------------------------------------------------------------------------
export interface Point {
  unit: Shown["units"][number];
  /** What single layers read, as tokens are ranked. */
  impact: number;
  /** Size of the effect. */
  size: number;
}

/** The units that the results have, too. Position 0 only with state.first. */
export function points({ run, state }: Compared, { units }: Shown): Point[] {
  const { value } = importance(matrix(run, state), { from: null, to: null, join: "root" });
  return units.flatMap((unit) => {
    const place = tokenIndex(run, unit.position),
      impact = Math.abs(value[place]), // of a metric that has one, without its sign
      size = Math.abs(unit.value);
    const same =
      run.tokens[place]?.text === unit.label &&
      impact >= 0 &&
      size >= 0 &&
      (state.first || !isFirst(run.tokens[place]));
    return same ? { unit, impact, size } : [];
  });
}

/** From 1; equal values get the mean of their ranks. */
export function ranks(values: number[]): number[] {
  return values.map((value) =>
    values.reduce((rank, each) => rank + (each < value ? 1 : each === value ? 0.5 : 0), 0.5),
  );
}

/** Rank correlation; NaN where one side has no order. */
export function spearman(a: number[], b: number[]): number {
  const [x, y] = [ranks(a), ranks(b)],
    middle = (a.length + 1) / 2;
  const sum = (one: number[], two: number[]) =>
    one.reduce((all, rank, i) => all + (rank - middle) * (two[i] - middle), 0);
  return sum(x, y) / Math.sqrt(sum(x, x) * sum(y, y));
}

/** A unit as a token: the run's own where it is one. */
export function unitToken({ label, position }: { label: string; position: number }, run: Run): TokenInfo {
  const token = run.tokens[tokenIndex(run, position)];
  return token?.text === label ? token : plainToken(position, label);
}

/** All about one mask. */
export function maskText(
  { run }: Pick<Compared, "run">,
  { effects: { rows, numbers, top }, block, step, floor }: Shown,
  unit: Shown["units"][number],
  window: string,
): string {
  const row = rows.get([step, block, window, unit.key].join());
  const what = unit.route ? `${unit.label}, cut` : `${named(unitToken(unit, run), 24)}, masked`;
  const name = `${what} ${where(window)}`;
  if (row === undefined) return `${name}: not measured`;
  const said = (text: string, key: string, shown = signed) =>
    numbers[key]?.[row]! > -Infinity ? `, ${text} ${shown(numbers[key]![row])}` : "";
  const below = isNoise(numbers.logprob_change![row], floor) ? " (below the noise)" : "";
  const changed = `log-probability ${signed(numbers.logprob![row])}${said("changed by", "logprob_change")}${below}`;
  const others = `${said("KL", "kl", number)}${said("contrast changed by", "contrast_change")}${said("interaction", "interaction")}`;
  return `${name}: ${changed}, rank ${numbers.rank![row]}, likeliest ${visible(top[row])}${others}`;
}
