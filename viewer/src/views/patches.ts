/** What the picture view shows, as numbers: which tokens lie where in which picture, and how important they are. */

import { importance } from "../core/aggregate.ts";
import { changesOf, injectionText, levels } from "../core/deepstack.ts";
import { counterparts } from "../core/align.ts";
import { onOneScale } from "../core/beside.ts";
import { risingSizes } from "../core/colour.ts";
import { effectScores } from "../core/effects.ts";
import { promptText } from "../core/prompt-text.ts";
import { matrix, noiseFloor, tokenIndex, type Scene } from "../core/scene.ts";
import { withState, type State } from "../core/state.ts";
import { remembered } from "../core/track.ts";
import { isDifference, modelName } from "../core/words.ts";
import type { Box, ManifestImage, Run, TokenInfo } from "../data/types.ts";

/** One picture, of a run or of what has tokens and pictures as a run has them. */
export interface Figure<Of extends Pick<Run, "tokens" | "pictures"> = Run> {
  run: Of;
  /** Which picture of the run. */
  image: number;
  /** Its place in the manifest, {} without one. */
  about: ManifestImage;
  /** Width and height in the unit of the boxes: pixels of the upright picture; null where nothing says. */
  size: [number, number] | null;
  patches: Patch[];
  /** Tokens of the picture that were masked, those without a place included. */
  tokens: number;
}

export type AnyFigure = Figure<Pick<Run, "tokens" | "pictures">>;

export interface Patch {
  token: TokenInfo;
  /** Its place in run.tokens, or that of the unit it belongs to. */
  place: number;
  box: Box;
}

const known = new WeakMap<Run, Figure[]>();

/** The pictures of a run, in order. None if no manifest tells of any. */
export function figures(run: Run): Figure[] {
  let found = known.get(run);
  if (found) return found;
  const images = run.manifest?.images ?? [];
  const count = run.tokens.reduce(
    (most, { kind, image }) => (kind === "image" ? Math.max(most, (image ?? 0) + 1) : most),
    images.length,
  );
  found = Array.from({ length: count }, (_, image) => ({
    run,
    image,
    about: images[image] ?? {},
    size: null,
    patches: [],
    tokens: 0,
  }));
  // Of a unit, all of its patches, which the manifest knows.
  const tokens = run.tokens.some(({ members }) => members)
    ? promptText(run).tokens.map(({ info, place }) => ({ token: info, place }))
    : run.tokens.map((token, place) => ({ token, place }));
  for (const { token, place } of tokens) {
    if (token.kind !== "image" || place < 0) continue;
    const figure = found[token.image ?? 0];
    figure.tokens++;
    if (token.box) figure.patches.push({ token, place, box: token.box });
  }
  for (const figure of found) figure.size = sizeOf(figure);
  known.set(run, found);
  return found;
}

function sizeOf({ about, patches }: Figure): [number, number] | null {
  const [width, height] = about.size ?? [];
  if (width > 0 && height > 0) return [width, height];
  if (!patches.length) return null;
  return [Math.max(...patches.map(({ box }) => box[2])), Math.max(...patches.map(({ box }) => box[3]))];
}

/** Of every token of a run (also those of no picture): its value in the chosen layer, or joined over layers. */
export interface Values {
  of: Float32Array;
  /** Layer of the joined value where it is largest, -1: none. Empty for a chosen layer. */
  peak: Int32Array;
  /** End of the colour scale: the largest value of a patch, of all layers or, with range "row", of this one. */
  largest: number;
}

/** Runs that share a colour scale, and the value at its end. */
export interface Scale {
  runs: Run[];
  largest: number;
  /** Of a percentile scale, the sizes it is made of. */
  sizes: Float32Array | null;
}

/** What is to be shown: pictures, and the values of each one's run. */
export interface Shown {
  /** Those that are shown large: of a video, one frame. */
  figures: Figure[];
  all: Figure[];
  values: Map<Run, Values>;
  /** One for all runs of one model; distances of different models are in different units. */
  scales: Scale[];
  /** Second run minus the first one, on the pictures of the first; or effects that have two directions. */
  signed: boolean;
  /** What masks do to the answer is shown, in these words; null: values of layers. */
  effect: string | null;
  /** Of an effect: what is under it is rounding. */
  floor: number;
}

export const shown = remembered(makeShown, ({ runs }: Pick<Scene, "run" | "runs" | "state">) => runs[0]);

function makeShown(scene: Pick<Scene, "run" | "runs" | "state">): Shown {
  const found = withInjection(scene) ?? withEffects(scene) ?? withImpact(scene);
  return { ...found, figures: withOneFrame(found, scene.state) };
}

/** The frames of the video that a picture is of. */
export const framesOf = ({ run, about: { video } }: Figure): Figure[] =>
  video === undefined ? [] : figures(run).filter(({ about }) => about.video === video);

/** Of each video the frame that was chosen, or the one with the selected patch, or with the strongest. */
function withOneFrame({ all, values }: Omit<Shown, "figures">, state: State): Figure[] {
  return all.filter((figure) => {
    const frames = framesOf(figure);
    if (frames.length < 2) return true;
    const of = values.get(figure.run)!.of;
    const most = ({ patches }: Figure) =>
      patches.reduce((sofar, { place }) => Math.max(sofar, Math.abs(of[place]) || 0), 0);
    const chosen =
      frames.find(({ image }) => image === state.frame) ??
      frames.find((frame) => patchesOf(frame, state.token).length) ??
      frames.reduce((best, frame) => (most(frame) > most(best) ? frame : best));
    return figure === chosen;
  });
}

function withImpact(scene: Pick<Scene, "run" | "runs" | "state">): Omit<Shown, "figures"> {
  const { runs, state } = scene;
  const signed = isDifference(state, runs);
  if (signed) {
    const [run] = runs;
    const of = difference(run, runs[1], state);
    const largest = largestOf(run, of);
    return {
      all: figures(run),
      values: new Map([[run, { of, peak: new Int32Array(), largest }]]),
      scales: [{ runs: [run], largest, sizes: sizesOf(state, [[run, of]]) }],
      signed,
      effect: null,
      floor: 0,
    };
  }
  const found = new Map(runs.map((run) => [run, values(run, state)]));
  const scales = new Map<string, Scale>();
  for (const [run, { largest }] of found) {
    const scale = scales.get(modelName(run)) ?? { runs: [], largest: 0 };
    const own = [...scale.runs, run];
    const sizes = sizesOf(
      state,
      own.map((each) => [each, found.get(each)!.of]),
    );
    scales.set(modelName(run), { runs: own, largest: Math.max(scale.largest, largest), sizes });
  }
  return {
    all: runs.flatMap(figures),
    values: found,
    scales: [...scales.values()],
    signed,
    effect: null,
    floor: 0,
  };
}

/** What the answer needs of the features that are added to each patch, where an injection is chosen. */
function withInjection({ runs, state }: Pick<Scene, "runs" | "state">): Omit<Shown, "figures"> | null {
  const level = state.injection === null ? undefined : levels(runs[0])[state.injection];
  if (!level) return null;
  const values = new Map(
    runs.map((run) => {
      const of = changesOf(run, state.step, level);
      return [run, { of, peak: new Int32Array(), largest: largestOf(run, of) }];
    }),
  );
  return {
    all: runs.flatMap(figures),
    values,
    scales: runScales(state, values),
    signed: true,
    effect: `change of log-probability without DeepStack ${injectionText(level)} at the patch`,
    floor: runs[0].manifest?.effects?.noise?.logit ?? 0,
  };
}

/** Of every injection, in the picture of a run. */
export function injectionMaps({ state }: Mapped, { run }: Figure): MapValues {
  const all = levels(run).map((level) => changesOf(run, state.step, level));
  const sizes = sizesOf(
    state,
    all.map((of) => [run, of]),
  );
  return { values: all, largest: Math.max(0, ...all.map((of) => largestOf(run, of))), sizes, signed: true };
}

/** A scale for each run. */
const runScales = (state: State, values: Map<Run, Values>): Scale[] =>
  [...values].map(([run, { largest, of }]) => ({ runs: [run], largest, sizes: sizesOf(state, [[run, of]]) }));

/** Effects on the answer, where the page is shaded by them; a run without any has no values. Each run has its own scale. */
function withEffects({ runs, state }: Pick<Scene, "runs" | "state">): Omit<Shown, "figures"> | null {
  const scores = runs.map((run) => effectScores({ run, runs, state }));
  const [first] = scores;
  if (!first) return null;
  const values = new Map(
    runs.map((run, i) => {
      const of = scores[i]?.value ?? new Float32Array(run.tokens.length).fill(NaN);
      return [run, { of, peak: new Int32Array(), largest: largestOf(run, of) }];
    }),
  );
  const scales = runScales(state, values);
  return {
    all: runs.flatMap(figures),
    values,
    scales,
    signed: first.signed,
    effect: first.what!,
    floor: first.floor,
  };
}

/** Values under it are rounding. */
export const floorOf = ({ effect, floor }: Shown, run: Run, state: State) =>
  effect === null ? noiseFloor(run, state, state.layer ?? undefined) : floor;

export const scaleOf = ({ scales }: Shown, run: Run): Scale => scales.find(({ runs }) => runs.includes(run))!;

/** The sizes of the patches in several maps, if the scale is made of them. */
function sizesOf({ curve }: State, maps: [run: Run, of: Float32Array][]): Float32Array | null {
  if (curve !== "rank") return null;
  return risingSizes(
    maps.flatMap(([run, of]) => figures(run).flatMap(({ patches }) => patches.map(({ place }) => of[place]))),
  );
}

/** NaN for tokens that are compared with none. */
function difference(first: Run, second: Run, state: State): Float32Array {
  const [a, b] = [values(first, state).of, values(second, state).of];
  const same = counterparts(first, second, state.align);
  return a.map((value, place) => (same[place] < 0 ? NaN : b[same[place]] - value));
}

export function values(run: Run, state: State): Values {
  const found = matrix(run, state);
  const layer = state.layer === null ? -1 : run.layers.indexOf(state.layer);
  if (layer < 0) {
    const { value, peak } = importance(found, state);
    return { of: value, peak, largest: largestOf(run, value) };
  }
  const rows = Array.from(run.layers, (_, row) =>
    found.values.subarray(row * run.tokens.length, (row + 1) * run.tokens.length),
  );
  const largest =
    state.range === "row" ? largestOf(run, rows[layer]) : Math.max(...rows.map((row) => largestOf(run, row)));
  return { of: rows[layer], peak: new Int32Array(), largest };
}

/** The values of patches in several maps, and the end of their common scale. */
interface MapValues {
  values: Float32Array[];
  largest: number;
  sizes: Float32Array | null;
  signed: boolean;
}

type Mapped = Pick<Scene, "runs" | "state" | "beside">;

/** On one scale with those of the other runs next to it; `states`: of a run, its layers or its steps. */
function mapsOf({ runs, state, beside }: Mapped, { run }: Figure, states: (run: Run) => State[]): MapValues {
  const signed = isDifference(state, runs);
  const of = (each: Run) =>
    states(each).map((one) => (signed ? difference(runs[0], runs[1], one) : values(each, one).of));
  const peers = signed ? [run] : onOneScale({ run, beside });
  const maps = peers.flatMap((each) => of(each).map((map): [Run, Float32Array] => [each, map]));
  const largest = Math.max(0, ...maps.map(([each, map]) => largestOf(each, map)));
  return { values: of(run), largest, sizes: sizesOf(state, maps), signed };
}

/** Of every layer of the run. */
export const layerMaps = (scene: Mapped, figure: Figure): MapValues =>
  mapsOf(scene, figure, (run) => run.layers.map((layer) => withState(scene.state, { layer, range: "row" })));

/** Of every output token, with the layers joined. */
export const stepMaps = (scene: Mapped, figure: Figure): MapValues =>
  mapsOf(scene, figure, (run) => run.steps.map((step) => withState(scene.state, { step, layer: null })));

/** Places of the patches of a picture, or of the units they belong to, that have the values furthest from 0; largest first. */
export function strongestPlaces({ patches }: AnyFigure, of: Float32Array, count: number): number[] {
  const places = [...new Set(patches.map(({ place }) => place))].filter((place) => Math.abs(of[place]) > 0);
  return places.sort((a, b) => Math.abs(of[b]) - Math.abs(of[a])).slice(0, count);
}

/** Of all patches of a run; values may have a sign. */
function largestOf(run: Run, of: Float32Array): number {
  let largest = 0;
  for (const { patches } of figures(run))
    for (const { place } of patches) if (Math.abs(of[place]) > largest) largest = Math.abs(of[place]);
  return largest;
}

/** The patch at a position; those of a unit, if that is what was masked. */
export function patchesOf({ run, patches }: AnyFigure, position: number | null): Patch[] {
  const wanted = tokenIndex(run, position);
  return wanted < 0 ? [] : patches.filter(({ place }) => place === wanted);
}

/** The patch under a point, in pixels of the picture. */
export function patchAt(figure: AnyFigure, x: number, y: number): Patch | null {
  return (
    figure.patches.find(({ box: [left, top, right, bottom] }) => x >= left && x < right && y >= top && y < bottom) ??
    null
  );
}

/** The nearest patch in a direction ("ArrowLeft", ...), or the same one at the edge; the first one without a patch. */
export function neighbour(figure: AnyFigure, from: Patch | null, key: string): Patch | null {
  if (!from) return figure.patches[0] ?? null;
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key] ?? [0, 0];
  const middle = ({ box: [left, top, right, bottom] }: Patch) => [(left + right) / 2, (top + bottom) / 2];
  const [x, y] = middle(from);
  const [left, top, right, bottom] = from.box;
  let best: Patch | null = null,
    nearest = Infinity;
  for (const patch of figure.patches) {
    if (patch.place === from.place) continue; // of the same unit
    const [px, py] = middle(patch);
    const along = (px - x) * dx + (py - y) * dy;
    const across = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
    const distance = along + 4 * across; // straight ahead first
    if (along > (dx ? right - left : bottom - top) / 4 && distance < nearest) [best, nearest] = [patch, distance];
  }
  return best ?? from;
}
