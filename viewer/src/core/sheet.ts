/**
 * What the heat map shows: one Sheet per shown run, or one of their difference.
 *
 * All sheets of a scene have the same columns (positions) and layers, those of all shown runs together, so that runs
 * can scroll as one. What a run did not measure is NaN.
 */

import type { Run, TokenInfo } from "../data/types.ts";
import { isFirst } from "./aggregate.ts";
import { brief, inText, isOfModel, metricOf, metricsOf } from "./metrics.ts";
import { isNoise, matrix, noiseFloor, sameToken, tokenIndex, type Scene } from "./scene.ts";
import { remembered } from "./track.ts";
import { isDifference, modelName } from "./words.ts";

/** One token, or a picture folded into one column. */
export interface Column {
  positions: number[];
  /** The first of them, of this run or, where it does not have it, of another. */
  token: TokenInfo;
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
  const runs = difference ? scene.runs.slice(0, 2) : scene.runs;
  const columns = columnsOf(runs, state.fold);
  const layers =
    runs.length === 1 ? runs[0].layers : [...new Set(runs.flatMap((run) => run.layers))].sort((a, b) => a - b);
  const made = difference
    ? [differenceSheet(scene, layers, columns)]
    : runs.map((run) => runSheet(scene, run, layers, columns));
  // Runs of one model are in the same units: one scale for all of them.
  const together =
    made.length > 1 && state.range === "all" && runs.every((run) => modelName(run) === modelName(runs[0]));
  if (together) {
    const largest = Float32Array.of(Math.max(...made.map((sheet) => sheet.largest[0])));
    for (const sheet of made) Object.assign(sheet, { largest, shared: true });
  }
  return made;
}

function columnsOf(runs: readonly Run[], fold: boolean): Column[] {
  const tokens = runs.length === 1 ? runs[0].tokens : tokensOf(runs);
  const columns: Column[] = [];
  for (const token of tokens) {
    const last = columns[columns.length - 1];
    const joins = fold && token.kind === "image" && last?.token.kind === "image" && last.token.image === token.image;
    if (joins) last.positions.push(token.position);
    else columns.push({ positions: [token.position], token });
  }
  return columns;
}

/** Of every position, the token of the first run that has it. */
function tokensOf(runs: readonly Run[]): TokenInfo[] {
  const byPosition = new Map<number, TokenInfo>();
  for (const run of [...runs].reverse()) for (const token of run.tokens) byPosition.set(token.position, token);
  return [...byPosition.values()].sort((a, b) => a.position - b.position);
}

/** One value per layer and position of a list that may have more of both than the run. */
function spread(run: Run, layers: number[], columns: Column[], value: (layer: number, token: number) => number) {
  const values = new Float32Array(layers.length * columns.length).fill(NaN);
  const folded = columns.some(({ positions }) => positions.length > 1);
  const strongest = folded ? new Int32Array(values.length).fill(-1) : null;
  const layerPlaces = layers.map((layer) => run.layers.indexOf(layer));
  columns.forEach(({ positions }, column) => {
    for (const position of positions) {
      const token = tokenIndex(run, position);
      if (token < 0) continue;
      layerPlaces.forEach((layer, row) => {
        if (layer < 0) return;
        const place = row * columns.length + column;
        const here = value(layer, token);
        if (isNaN(here) || Math.abs(values[place]) >= Math.abs(here)) return;
        values[place] = here;
        if (strongest) strongest[place] = position;
      });
    }
  });
  return { layers, columns, values, strongest };
}

function runSheet(scene: Scene, run: Run, layers: number[], columns: Column[]): Sheet {
  const { tokens, values } = matrix(run, scene.state);
  // By itself and with nothing folded, a run has its values in this order already.
  const whole = layers === run.layers && columns.length === tokens.length;
  const sheet = scaled(
    scene,
    run,
    whole
      ? { layers, columns, values, strongest: null }
      : spread(
          run,
          layers,
          columns.map((column) => own(run, column)),
          (layer, token) => values[layer * tokens.length + token],
        ),
  );
  sheet.notes.push(...missing(scene, run));
  return sheet;
}

function own(run: Run, column: Column): Column {
  const token = tokenIndex(run, column.positions[0]);
  return token < 0 ? column : { ...column, token: run.tokens[token] };
}

/** Second minus first, where both have the same token at a position. */
function differenceSheet(scene: Scene, layers: number[], columns: Column[]): Sheet {
  const [first, second] = scene.runs;
  const [a, b] = [matrix(first, scene.state), matrix(second, scene.state)];
  const layerPlaces = first.layers.map((layer) => second.layers.indexOf(layer));
  const same = first.tokens.map((token) => sameToken(first, token, second));
  const sheet = scaled(
    scene,
    first,
    spread(first, layers, columns, (layer, token) => {
      const [otherLayer, other] = [layerPlaces[layer], same[token]];
      if (otherLayer < 0 || other < 0) return NaN;
      return b.values[otherLayer * b.tokens.length + other] - a.values[layer * a.tokens.length + token];
    }),
  );
  sheet.title = `${second.name} − ${first.name}`;
  sheet.signed = true;
  const metric = metricOf(first, scene.state);
  if (isOfModel(metric) && modelName(first) !== modelName(second)) {
    sheet.notes.push(
      `Two models: their ${inText(metric.title)}s have different units, so this difference means little${better(scene)}.`,
    );
  }
  sheet.floors = layers.map((layer, place) => Math.max(sheet.floors[place], noiseFloor(second, scene.state, layer)));
  sheet.floor = Math.max(0, ...sheet.floors);
  const all = new Set([...first.tokens, ...second.tokens].map(({ position }) => position)).size;
  const lost = all - same.filter((other) => other >= 0).length;
  if (lost) {
    sheet.notes.push(
      `${lost} of ${all} positions do not match (another token or picture there, or not masked in both runs) and stay empty.`,
    );
  }
  const shared = layerPlaces.filter((place) => place >= 0).length;
  if (shared < layers.length)
    sheet.notes.push(`${layers.length - shared} of ${layers.length} layers are not in both runs.`);
  sheet.notes.push(...missing(scene, first), ...missing(scene, second));
  return sheet;
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
    largest,
    measured: values.length - empty,
    empty,
    below,
  };
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
