/** The long table -> one dense array per metric, with the lists of steps, layers, variants and tokens it is made of. */

import { count, LoadError, plural, quoted } from "./errors.ts";
import { metricsOf } from "./metrics.ts";
import { lastOfSteps } from "./queries.ts";
import type { ColumnName, Table } from "./table.ts";
import type { Metric, Queries, TokenInfo, Values } from "./types.ts";

export interface Cube {
  steps: number[];
  layers: number[];
  variants: string[];
  tokens: TokenInfo[];
  metrics: Metric[];
  values: Values;
  queries: Queries | null;
  duplicates: number;
  notes: string[];
}

/** Cells of one metric: 2 x 400 MB. Our own files fill nearly every cell, so this is far above any that can be loaded. */
export const MAX_CELLS = 100_000_000;

export function makeCube(table: Table, maxCells = MAX_CELLS): Cube {
  if (!table.rows) throw new LoadError("the table has a header and no rows");
  const asked = table.columns.query_position.length > 0;
  const { keys, named } = asked
    ? joined(ints(table, "generation_step"), ints(table, "query_position"))
    : { keys: ints(table, "generation_step"), named: null };
  const step = numbered(keys);
  const layer = numbered(ints(table, "layer"));
  const token = numbered(ints(table, "token_position"));
  const variant = variantsOf(ints(table, "variant"), table.texts.list);
  const shape = [step, variant, layer, token].map(({ values }) => values.length) as Shape;
  checkSize(shape, asked, maxCells);
  const { cells, filled, duplicates } = cellsOf(table, keys, [step, variant, layer, token]);
  const { texts, conflicts } = textsOf(table, token);
  const metrics = metricsOf(table.metrics);
  const notes = [
    ...duplicateNote(duplicates),
    ...conflicts,
    ...gapNote(
      filled,
      step.values.map((key) => (named ? `query position ${named(key).position}` : `step ${key}`)),
      layer.values,
      variant.names,
      shape[3],
    ),
    ...(table.infinite ? ["Some distances are infinite; they are shown as missing."] : []),
    ...(table.noText
      ? ["Some tokens have no text in the file (a program may have taken the token null for a missing value)."]
      : []),
    ...table.notes,
  ];
  const cube: Cube = {
    steps: step.values,
    layers: layer.values,
    variants: variant.names,
    tokens: token.values.map((position, t) => plainToken(position, texts[t])),
    metrics,
    values: Object.fromEntries(metrics.map(({ name, column }) => [name, spread(table, column, cells, filled.length)])),
    queries: null,
    duplicates,
    notes,
  };
  if (!named) return cube;
  const queries = step.values.map(named);
  return lastOfSteps(
    cube,
    queries.map(({ position }) => position),
    queries.map(({ step }) => step),
  );
}

type Shape = [S: number, V: number, L: number, T: number];

function ints({ columns, rows }: Table, name: ColumnName): Int32Array {
  return (columns[name].data as Int32Array).subarray(0, rows);
}

function checkSize([S, V, L, T]: Shape, asked: boolean, maxCells: number): void {
  const cells = S * V * L * T;
  if (cells <= maxCells) return;
  const size = `${plural(S, asked ? "query position" : "step")} x ${plural(V, "variant")} x ${plural(L, "layer")} x ${plural(T, "token")}`;
  throw new LoadError(`${size} = ${count(cells)} cells are more than a browser can hold (${count(maxCells)})`);
}

/** The cell of each row, which cells have one, and how many rows gave a cell a second value. */
function cellsOf(table: Table, steps: Int32Array, [step, variant, layer, token]: Numbered[]) {
  const [V, L, T] = [variant, layer, token].map(({ values }) => values.length);
  const cells = new Int32Array(table.rows);
  const filled = new Uint8Array(step.values.length * V * L * T);
  const [variants, layers, positions] = ["variant", "layer", "token_position"].map((name) => ints(table, name));
  let duplicates = 0;
  for (let i = 0; i < cells.length; i++) {
    const block = (step.indexOf(steps[i]) * V + variant.indexOf(variants[i])) * L + layer.indexOf(layers[i]);
    const cell = block * T + token.indexOf(positions[i]);
    duplicates += filled[cell];
    filled[cell] = 1;
    cells[i] = cell;
  }
  return { cells, filled, duplicates };
}

/** One column by cell; of rows for the same cell the last one counts. NaN where there is none. */
function spread({ columns }: Table, column: ColumnName, cells: Int32Array, size: number): Float32Array {
  const { data } = columns[column];
  const out = new Float32Array(size).fill(NaN);
  for (let i = 0; i < cells.length; i++) out[cells[i]] = data[i];
  return out;
}

/** The text at each position, and a note if there are several. */
function textsOf(table: Table, token: Numbered): { texts: string[]; conflicts: string[] } {
  const { list } = table.texts;
  const [positions, tokens] = [ints(table, "token_position"), ints(table, "token_masked")];
  const first = new Int32Array(token.values.length).fill(-1);
  const others = new Map<number, number>();
  for (let i = 0; i < positions.length; i++) {
    const t = token.indexOf(positions[i]);
    if (first[t] === tokens[i]) continue;
    if (first[t] < 0) first[t] = tokens[i];
    else if (list[first[t]] !== list[tokens[i]]) others.set(t, tokens[i]);
  }
  return { texts: Array.from(first, (id) => list[id]), conflicts: conflictNote(others, first, list, token.values) };
}

/** Step and query position of each row as one number, and what such a number is of. */
function joined(
  steps: Int32Array,
  queries: Int32Array,
): { keys: Int32Array; named: (key: number) => { step: number; position: number } } {
  const largest = (data: Int32Array) => data.reduce((most, each) => Math.max(most, each), 0);
  const size = largest(queries) + 1;
  if ((largest(steps) + 1) * size > 2 ** 31)
    throw new LoadError(`query position ${count(size - 1)} is larger than any model can have`);
  return {
    keys: Int32Array.from(steps, (step, row) => step * size + queries[row]),
    named: (key) => ({ step: Math.floor(key / size), position: key % size }),
  };
}

export function plainToken(position: number, text: string): TokenInfo {
  return { position, text, kind: "text", id: null, image: null, row: null, col: null, box: null };
}

interface Numbered {
  /** The different values in order. */
  values: number[];
  indexOf: (value: number) => number;
}

/** Values up to four million, that is nearly always, are looked up in an array; others in a map. */
function numbered(data: Int32Array, order = (a: number, b: number) => a - b): Numbered {
  let max = 0;
  for (let i = 0; i < data.length; i++) if (data[i] > max) max = data[i];
  if (max > 4_000_000) {
    const values = [...new Set(data)].sort(order);
    const places = new Map(values.map((value, i) => [value, i]));
    return { values, indexOf: (value) => places.get(value)! };
  }
  const places = new Int32Array(max + 1).fill(-1);
  for (let i = 0; i < data.length; i++) places[data[i]] = 0;
  const values = Array.from(places.keys())
    .filter((value) => places[value] === 0)
    .sort(order);
  values.forEach((value, i) => (places[value] = i));
  return { values, indexOf: (value) => places[value] };
}

/** Variants as numbers of texts. Two byte sequences may be the same name (JSON escapes), so names are merged. */
function variantsOf(data: Int32Array, texts: string[]): Numbered & { names: string[] } {
  const used = numbered(data);
  const names = [...new Set(used.values.map((id) => texts[id]))].sort(byVariant);
  const place = new Int32Array(texts.length);
  for (const id of used.values) place[id] = names.indexOf(texts[id]);
  return { names, values: names.map((_, i) => i), indexOf: (id) => place[id] };
}

/** Full, Attn, Head_0, Head_1, ..., Head_10; then the same of cross-attention, CrossFull, ...; then any others by name. */
function byVariant(a: string, b: string): number {
  const rank = (name: string) => {
    const [, cross, kind, head] = /^(Cross)?(Full|Attn|Head_(\d+))$/.exec(name) ?? [];
    return kind ? (cross ? 1e6 : 0) + (kind === "Full" ? -2 : kind === "Attn" ? -1 : Number(head)) : Infinity;
  };
  const [x, y] = [rank(a), rank(b)];
  return x === y ? (a < b ? -1 : a > b ? 1 : 0) : x - y;
}

// --- what a reader has to know ----------------------------------------------------------------------------
function duplicateNote(duplicates: number): string[] {
  if (!duplicates) return [];
  const rows = duplicates === 1 ? "1 row gives" : `${count(duplicates)} rows give`;
  return [`${rows} a second value for the same step, layer, token and variant; the last one is shown.`];
}

function conflictNote(
  conflicts: Map<number, number>,
  first: Int32Array,
  texts: string[],
  positions: number[],
): string[] {
  const [example] = conflicts;
  if (!example) return [];
  const [t, other] = example;
  const pair = `${quoted(texts[first[t]])} and ${quoted(texts[other])}`;
  const where = conflicts.size === 1 ? `Position ${positions[t]} has` : `${count(conflicts.size)} positions have`;
  return [
    `${where} more than one text (${pair} at ${positions[t]}): rows of two runs may be mixed. The first is shown.`,
  ];
}

/**
 * A step measures the same tokens in every layer, and a layer the same variants at every step; so does the part of both that
 * is of cross-attention, whose tokens are others. Where a block of one step and one layer has fewer cells than that, the
 * file may have been cut off between two rows.
 */
function gapNote(filled: Uint8Array, steps: string[], layers: number[], variants: string[], T: number): string[] {
  const [S, L, V] = [steps.length, layers.length, variants.length];
  const part = variants.map((name) => Number(name.startsWith("Cross")));
  const inBlock = new Int32Array(2 * S * L),
    tokenInStep = new Uint8Array(2 * S * T),
    variantInLayer = new Uint8Array(2 * V * L);
  for (let s = 0, cell = 0; s < S; s++) {
    for (let v = 0; v < V; v++) {
      const own = part[v] * S + s;
      for (let l = 0; l < L; l++) {
        const block = own * L + l,
          layer = (part[v] * V + v) * L + l;
        for (let t = 0; t < T; t++, cell++) {
          if (!filled[cell]) continue;
          inBlock[block]++;
          tokenInStep[own * T + t] = 1;
          variantInLayer[layer] = 1;
        }
      }
    }
  }
  const sum = (flags: Uint8Array, start: number, end: number, stride: number) => {
    let n = 0;
    for (let i = start; i < end; i += stride) n += flags[i];
    return n;
  };
  let gaps = 0,
    example = "";
  for (let s = 0; s < S; s++) {
    for (let l = 0; l < L; l++) {
      const expected = [0, 1].reduce(
        (all, p) =>
          all +
          sum(tokenInStep, (p * S + s) * T, (p * S + s + 1) * T, 1) *
            sum(variantInLayer, p * V * L + l, (p + 1) * V * L, L),
        0,
      );
      const got = inBlock[s * L + l] + inBlock[(S + s) * L + l];
      if (got === expected) continue;
      if (!gaps++) example = `${steps[s]}, layer ${layers[l]} has ${count(got)} of ${count(expected)} values`;
    }
  }
  if (!gaps) return [];
  const blocks = gaps === 1 ? "A layer is" : `${count(gaps)} layers are`;
  return [`${blocks} incomplete (${example}): the file may have been cut off, or rows were removed.`];
}
