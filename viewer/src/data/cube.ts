/** The long table -> one dense array per metric, with the lists of steps, layers, variants and tokens it is made of. */

import { count, LoadError, plural, quoted } from "./errors.ts";
import { lastOfSteps } from "./queries.ts";
import type { Table } from "./table.ts";
import type { Queries, TokenInfo } from "./types.ts";

export interface Cube {
  steps: number[];
  layers: number[];
  variants: string[];
  tokens: TokenInfo[];
  l2: Float32Array;
  cosine: Float32Array;
  queries: Queries | null;
  duplicates: number;
  notes: string[];
}

/** Cells of one metric: 2 x 400 MB. Our own files fill nearly every cell, so this is far above any that can be loaded. */
export const MAX_CELLS = 100_000_000;

export function makeCube(table: Table, maxCells = MAX_CELLS): Cube {
  const { rows, texts } = table;
  if (!rows) throw new LoadError("the table has a header and no rows");
  const ints = (name: "generation_step" | "layer" | "token_position" | "token_masked" | "variant" | "query_position") =>
    (table.columns[name].data as Int32Array).subarray(0, rows);
  const asked = table.columns.query_position.length > 0;
  const { keys: steps, named } = asked
    ? joined(ints("generation_step"), ints("query_position"))
    : { keys: ints("generation_step") };
  const step = numbered(steps);
  const layer = numbered(ints("layer"));
  const token = numbered(ints("token_position"));
  const variant = variantsOf(ints("variant"), texts.list);
  const [S, V, L, T] = [step, variant, layer, token].map(({ values }) => values.length);
  const cells = S * V * L * T;
  if (cells > maxCells) {
    const size = `${asked ? plural(S, "query position") : plural(S, "step")} x ${plural(V, "variant")} x ${plural(L, "layer")} x ${plural(T, "token")}`;
    throw new LoadError(`${size} = ${count(cells)} cells are more than a browser can hold (${count(maxCells)})`);
  }

  const l2 = new Float32Array(cells).fill(NaN),
    cosine = new Float32Array(cells).fill(NaN);
  const filled = new Uint8Array(cells);
  const textAt = new Int32Array(T).fill(-1);
  const conflicts = new Map<number, number>();
  const layers = ints("layer"),
    positions = ints("token_position");
  const variants = ints("variant"),
    tokens = ints("token_masked");
  const l2s = table.columns.l2_distance.data,
    cosines = table.columns.cosine_distance.data;
  let duplicates = 0;
  for (let i = 0; i < rows; i++) {
    const t = token.indexOf(positions[i]);
    const cell = ((step.indexOf(steps[i]) * V + variant.indexOf(variants[i])) * L + layer.indexOf(layers[i])) * T + t;
    duplicates += filled[cell];
    filled[cell] = 1;
    l2[cell] = l2s[i];
    cosine[cell] = cosines[i];
    if (textAt[t] !== tokens[i]) {
      if (textAt[t] < 0) textAt[t] = tokens[i];
      else if (texts.list[textAt[t]] !== texts.list[tokens[i]]) conflicts.set(t, tokens[i]);
    }
  }

  const notes = [
    ...duplicateNote(duplicates),
    ...conflictNote(conflicts, textAt, texts.list, token.values),
    ...gapNote(
      filled,
      step.values.map((key) => (named ? `query position ${named(key).position}` : `step ${key}`)),
      layer.values,
      variant.names,
      T,
    ),
    ...(table.infinite ? ["Some distances are infinite; they are shown as missing."] : []),
    ...(table.noText
      ? ["Some tokens have no text in the file (a program may have taken the token null for a missing value)."]
      : []),
  ];
  const infos = token.values.map((position, t) => plainToken(position, texts.list[textAt[t]]));
  const cube = {
    steps: step.values,
    layers: layer.values,
    variants: variant.names,
    tokens: infos,
    l2,
    cosine,
    queries: null,
    duplicates,
    notes,
  };
  return named
    ? lastOfSteps(
        cube,
        step.values.map((key) => named(key).position),
        step.values.map((key) => named(key).step),
      )
    : cube;
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
