/**
 * What the heat map shows: one Sheet per shown run, or one of their difference.
 *
 * Every run has its own columns and layers: its tokens, or the units that were masked in it. What it did not measure is NaN.
 */

import type { Run, TokenInfo } from "../data/types.ts";
import { isFirst } from "./aggregate.ts";
import { counterparts } from "./align.ts";
import { risingSizes, share, type Scaling } from "./colour.ts";
import { brief, inText, isOfModel, metricOf, metricsOf } from "./metrics.ts";
import { otherToken } from "./prompt-text.ts";
import { isNoise, matrix, noiseFloor, tokenIndex, type Scene } from "./scene.ts";
import { label } from "./tokens.ts";
import { remembered } from "./track.ts";
import { isDifference, modelName } from "./words.ts";

const FEW = 4; // pairs of tokens that a note names

/** One token, or a picture folded into one column. */
export interface Column {
  positions: number[];
  /** The first of them. */
  token: TokenInfo;
  /** Of a difference by position: another token, which stands there in the second run. */
  other?: TokenInfo;
}

export interface Sheet {
  title: string;
  run: Run;
  layers: number[];
  columns: Column[];
  /** [layer * columns.length + column] */
  values: Float32Array;
  /** Which position gave a folded column its value; same shape. Null if nothing is folded. */
  strongest: Int32Array | null;
  signed: boolean;
  /** Noise floor of each layer, and the largest. */
  floors: number[];
  floor: number;
  /** Column of position 0 if it is outside of the scale, or -1. */
  outside: number;
  /** End of the scale: one for each layer or column of a row scale, or one for all. */
  largest: Float32Array;
  by: "layer" | "column" | "all";
  /** Of a percentile scale, the sizes it is made of, for each of `largest`; else null. */
  sizes: Float32Array[] | null;
  /** Whether the scale is that of all shown runs together. */
  shared: boolean;
  /** Cells with a value, cells without, and cells below the noise floor. */
  measured: number;
  empty: number;
  below: number;
  /** What to know about this sheet. */
  notes: string[];
}

export const largestFor = (sheet: Sheet, layer: number, column: number) =>
  sheet.largest[sheet.by === "all" ? 0 : sheet.by === "layer" ? layer : column];

/** The place of a value on the scale of its cell, 0 to 1. */
export const placeOf = (sheet: Sheet, value: number, layer: number, column: number, scaling: Scaling) =>
  share(
    value,
    largestFor(sheet, layer, column),
    scaling,
    sheet.signed,
    sheet.sizes?.[sheet.by === "all" ? 0 : sheet.by === "layer" ? layer : column],
  );

/** The place of the column that holds a position, or -1. */
export function columnOf(columns: Column[], position: number | null): number {
  if (position === null) return -1;
  return columns.findIndex(({ positions }) => positions[0] <= position && positions[positions.length - 1] >= position);
}

/** One for each shown run, or one for their difference. */
export const sheets = remembered(makeSheets, ({ runs }: Scene) => runs[0]);

function makeSheets(scene: Scene): Sheet[] {
  const { state } = scene;
  const difference = isDifference(state, scene.runs);
  const { runs } = scene;
  const made = difference
    ? [differenceSheet(scene, columnsOf(runs[0], state.fold))]
    : runs.map((run) => runSheet(scene, run, columnsOf(run, state.fold)));
  // Runs of one model are in the same units: one scale for all of them.
  const together =
    made.length > 1 && state.range === "all" && runs.every((run) => modelName(run) === modelName(runs[0]));
  if (together) {
    const largest = Float32Array.of(Math.max(...made.map((sheet) => sheet.largest[0])));
    const sizes = made[0].sizes && [risingSizes(made.flatMap((sheet) => [...sheet.sizes![0]]))];
    for (const sheet of made) Object.assign(sheet, { largest, sizes, shared: true });
  }
  return made;
}

function columnsOf({ tokens }: Run, fold: boolean): Column[] {
  const columns: Column[] = [];
  for (const token of tokens) {
    const last = columns[columns.length - 1];
    const joins = fold && token.kind === "image" && last?.token.kind === "image" && last.token.image === token.image;
    if (joins) last.positions.push(token.position);
    else columns.push({ positions: [token.position], token });
  }
  return columns;
}

/** One value per layer and column; of a folded one the value that is furthest from 0. */
function spread(run: Run, columns: Column[], value: (layer: number, token: number) => number) {
  const { layers } = run;
  const values = new Float32Array(layers.length * columns.length).fill(NaN);
  const folded = columns.some(({ positions }) => positions.length > 1);
  const strongest = folded ? new Int32Array(values.length).fill(-1) : null;
  columns.forEach(({ positions }, column) => {
    for (const position of positions) {
      const token = tokenIndex(run, position);
      for (let layer = 0, place = column; layer < layers.length; layer++, place += columns.length) {
        const here = value(layer, token);
        if (isNaN(here) || Math.abs(values[place]) >= Math.abs(here)) continue;
        values[place] = here;
        if (strongest) strongest[place] = position;
      }
    }
  });
  return { layers, columns, values, strongest };
}

function runSheet(scene: Scene, run: Run, columns: Column[]): Sheet {
  const { tokens, values } = matrix(run, scene.state),
    { layers } = run;
  // With nothing folded, a run has its values in this order already.
  const whole = columns.length === tokens.length;
  const sheet = scaled(
    scene,
    run,
    whole
      ? { layers, columns, values, strongest: null }
      : spread(run, columns, (layer, token) => values[layer * tokens.length + token]),
  );
  sheet.notes.push(...missing(scene, run));
  return sheet;
}

/** Second minus first, of tokens that are compared with each other. */
function differenceSheet(scene: Scene, columns: Column[]): Sheet {
  const { state } = scene,
    [first, second] = scene.runs;
  const [a, b] = [matrix(first, state), matrix(second, state)];
  const layerPlaces = first.layers.map((layer) => second.layers.indexOf(layer));
  const same = counterparts(first, second, state.align);
  const others = (column: Column): Column => {
    const other = otherToken(scene, tokenIndex(first, column.positions[0]));
    return other && column.positions.length < 2 ? { ...column, other } : column;
  };
  const sheet = scaled(
    scene,
    first,
    spread(first, columns.map(others), (layer, token) => {
      const [otherLayer, other] = [layerPlaces[layer], same[token]];
      if (otherLayer < 0 || other < 0) return NaN;
      return b.values[otherLayer * b.tokens.length + other] - a.values[layer * a.tokens.length + token];
    }),
  );
  sheet.title = `${second.name} − ${first.name}`;
  sheet.signed = true;
  sheet.floors = first.layers.map((layer, place) => Math.max(sheet.floors[place], noiseFloor(second, state, layer)));
  sheet.floor = Math.max(0, ...sheet.floors);
  sheet.notes.push(...compared(scene, sheet.columns), ...missing(scene, first), ...missing(scene, second));
  return sheet;
}

/** What was subtracted from what, and what could not be; sentences. */
function compared(scene: Scene, columns: Column[]): string[] {
  const { state } = scene,
    [first, second] = scene.runs,
    notes: string[] = [];
  const metric = metricOf(first, state);
  if (isOfModel(metric) && modelName(first) !== modelName(second))
    notes.push(
      `Two models: their ${inText(metric.title)}s have different units, so this difference means little${better(scene)}.`,
    );
  const matched = counterparts(first, second, state.align).filter((place) => place >= 0).length;
  const all = first.tokens.length + second.tokens.length - matched;
  const pairs = columns.filter(({ other }) => other);
  if (state.align === "position") {
    const shown = pairs
      .slice(0, FEW)
      .map(({ token, other }) => `${token.position} ${label(token, 20)} → ${label(other!, 20)}`);
    if (pairs.length > FEW) shown.push("…");
    notes.push(
      `By position: ${pairs.length ? `another token at ${pairs.length} of ${matched} (${shown.join(", ")})` : `the same tokens at all ${matched}`}.`,
    );
  }
  if (all > matched)
    notes.push(
      state.align === "token"
        ? `By token: ${all - matched} of ${all} tokens are in one run alone.`
        : `${all - matched} positions are in one run alone.`,
    );
  const shared = first.layers.filter((layer) => second.layers.includes(layer)).length;
  const every = new Set([...first.layers, ...second.layers]).size;
  if (shared < every) notes.push(`${every - shared} of ${every} layers are not in both runs.`);
  return notes;
}

/** What can be compared instead. */
function better({ runs }: Scene): string {
  const other = metricsOf(runs).find((metric) => !isOfModel(metric));
  return other ? `; try ${inText(brief(other))}` : "";
}

function missing({ state }: Scene, run: Run): string[] {
  if (!run.steps.includes(state.step)) return [`${run.name} has no step ${state.step + 1}.`];
  if (!run.variants.includes(state.variant)) return [`${run.name} has no ${state.variant.replace("_", " ")}.`];
  return [];
}

/** With the ends of the colour scale; position 0 does not count if it is outside. */
function scaled({ state }: Scene, run: Run, cells: Pick<Sheet, "layers" | "columns" | "values" | "strongest">): Sheet {
  const { values, columns, layers } = cells;
  const floors = layers.map((layer) => noiseFloor(run, state, layer));
  const outside =
    !state.first && columns.length > 1 && columns[0].positions.length === 1 && isFirst(columns[0].token) ? 0 : -1;
  const by = state.range === "all" ? "all" : state.rows === "layers" ? "layer" : "column";
  const largest = new Float32Array(by === "all" ? 1 : by === "layer" ? layers.length : columns.length);
  let overall = 0,
    empty = 0,
    below = 0;
  for (let layer = 0, place = 0; layer < layers.length; layer++) {
    for (let column = 0; column < columns.length; column++, place++) {
      const size = Math.abs(values[place]);
      if (isNaN(size)) empty++;
      else if (isNoise(size, floors[layer])) below++;
      if (column === outside) continue;
      if (size > overall) overall = size;
      const end = by === "all" ? 0 : by === "layer" ? layer : column;
      if (size > largest[end]) largest[end] = size;
    }
  }
  // As a row of its own, position 0 is measured against the others.
  if (by === "column" && outside >= 0) largest[outside] = overall;
  return {
    ...cells,
    title: run.name,
    run,
    signed: false,
    floors,
    floor: Math.max(0, ...floors),
    notes: [],
    outside,
    by,
    shared: false,
    sizes: state.curve === "rank" ? sizesOf(cells, by, largest.length, outside) : null,
    largest,
    measured: values.length - empty,
    empty,
    below,
  };
}

/** Of all cells, or of each layer or column. */
function sizesOf(
  { values, columns }: Pick<Sheet, "values" | "columns">,
  by: Sheet["by"],
  count: number,
  outside: number,
): Float32Array[] {
  const ends = Array.from({ length: count }, (_, end) => end);
  return ends.map((end) =>
    risingSizes(values, (place) => {
      const column = place % columns.length;
      const own = by === "all" || (by === "layer" ? Math.floor(place / columns.length) : column) === end;
      return own && (column !== outside || by === "column");
    }),
  );
}

/** Place in `values` of the largest one, whatever its sign, position 0 apart; -1 if there is none. */
export function strongest({ values, columns, outside }: Sheet): number {
  let best = -1,
    largest = 0;
  for (let place = 0; place < values.length; place++) {
    const size = Math.abs(values[place]);
    if (size > largest && place % columns.length !== outside) [best, largest] = [place, size]; // never NaN
  }
  return best;
}
