/** The long table as the parsers fill it: one growing typed array a column, texts as numbers. */

import { LoadError, count, listed, NotResults, quoted } from "./errors.ts";
import { checkedInteger, float32At, integerAt, latin1, special } from "./numbers.ts";
import { Texts } from "./texts.ts";

export const COLUMNS = [
  "generation_step",
  "layer",
  "token_masked",
  "token_position",
  "variant",
  "l2_distance",
  "cosine_distance",
] as const;

/** Only in a table of other query positions than those that predict the output. */
export const QUERY_POSITION = "query_position";

export type ColumnKind = "integer" | "text" | "number";

export const KINDS = {
  layer: "integer",
  variant: "text",
  l2_distance: "number",
  cosine_distance: "number",
  generation_step: "integer",
  token_masked: "text",
  token_position: "integer",
  query_position: "integer",
  first_layer: "integer",
  last_layer: "integer",
  block: "text",
  logprob: "number",
  logprob_change: "number",
  rank: "integer",
  top_token: "text",
  kl: "number",
  final_l2: "number",
  final_cosine: "number",
  contrast: "number",
  contrast_change: "number",
  interaction: "number",
  neighbor_token: "text",
  similarity: "number",
  kind: "text",
  image: "integer",
  row: "number", // these four may be -1
  col: "number",
  caption_position: "number",
  bank_layer: "number",
  caption: "text",
  masking_impact: "number",
} satisfies Record<string, ColumnKind> as Record<ColumnName, ColumnKind>;

const NEIGHBOR_COLUMNS = [
  "layer",
  "token_position",
  "rank",
  "neighbor_token",
  "similarity",
  "kind",
  "image",
  "row",
  "col",
  "caption_position",
  "bank_layer",
  "caption",
  "masking_impact",
] as const;

/** What a table can be of: its columns, and how many of them, the first ones, have to be in a file. */
const TABLES: Record<TableOf, { what: string; names: readonly ColumnName[]; required: number }> = {
  results: { what: "result table", names: [...COLUMNS, QUERY_POSITION], required: 7 },
  effects: {
    what: "table of effects",
    required: 13,
    names: [
      "generation_step",
      "token_masked",
      "token_position",
      "first_layer",
      "last_layer",
      "block",
      "logprob",
      "logprob_change",
      "rank",
      "top_token",
      "kl",
      "final_l2",
      "final_cosine",
      "contrast",
      "contrast_change",
      "interaction",
    ],
  },
  neighbors: { what: "table of neighbours", names: NEIGHBOR_COLUMNS, required: 5 },
};

export type TableOf = "results" | "effects" | "neighbors";
export type ColumnName =
  | (typeof COLUMNS)[number]
  | typeof QUERY_POSITION
  | "first_layer"
  | "last_layer"
  | "block"
  | "top_token"
  | EffectNumber
  | (typeof NEIGHBOR_COLUMNS)[number];
export type EffectNumber =
  | "logprob"
  | "logprob_change"
  | "rank"
  | "kl"
  | "final_l2"
  | "final_cosine"
  | "contrast"
  | "contrast_change"
  | "interaction";

/** A text that names what a row is of cannot be missing; a token can. */
export const needed = (column: ColumnName) => column === "variant" || column === "block" || column === "kind";

/** 2^25. At 28 bytes a row 0.9 GB, about what a tab can hold beside the cube made of them. */
export const MAX_ROWS = 33_554_432;

/** Those of a table's columns that a file has. Throws NotResults for a missing one, LoadError for one that is there twice. */
export function findColumns(names: readonly string[], table: Table): ColumnName[] {
  const missing = table.names.filter((column, c) => c < table.required && !names.includes(column));
  if (missing.length) throw new NotResults(missing, [...names], table.what);
  const twice = table.names.find((column) => names.indexOf(column) !== names.lastIndexOf(column));
  if (twice) throw new LoadError(`the column ${twice} is there twice: ${listed(names)}`);
  return table.names.filter((column) => names.includes(column));
}

export class Column<A extends Int32Array | Float32Array> {
  length = 0;
  data: A;
  #make: new (length: number) => A;
  constructor(make: new (length: number) => A) {
    this.#make = make;
    this.data = new make(4096);
  }

  push(value: number): void {
    if (this.length === this.data.length) this.#grow();
    this.data[this.length++] = value;
  }

  #grow(): void {
    if (this.length >= MAX_ROWS) {
      throw new LoadError(
        `more than ${count(MAX_ROWS)} rows do not fit into a browser: measure fewer layers or variants`,
      );
    }
    const larger = new this.#make(this.length * 2);
    larger.set(this.data);
    this.data = larger;
  }
}

export class Table {
  readonly texts = new Texts();
  readonly of: TableOf;
  readonly what: string;
  readonly names: readonly ColumnName[];
  /** So many of `names`, the first ones, have to be in a file. */
  readonly required: number;
  /** Text columns hold numbers of `texts`. Those of the other kind of table are not there. */
  readonly columns: Record<ColumnName, Column<Int32Array> | Column<Float32Array>>;
  /** Some distances are infinite; they are stored as NaN, since no colour scale can show them. */
  infinite = false;
  /** Some tokens have no text at all (null, where a program took the token "null" for a missing value). */
  noText = false;

  constructor(of: TableOf = "results") {
    this.of = of;
    ({ what: this.what, names: this.names, required: this.required } = TABLES[of]);
    const column = (name: ColumnName) => (KINDS[name] === "number" ? new Column(Float32Array) : new Column(Int32Array));
    this.columns = Object.fromEntries(this.names.map((name) => [name, column(name)])) as Table["columns"];
  }

  columnNamed(name: string): ColumnName | null {
    return this.names.find((each) => each === name) ?? null;
  }

  get rows(): number {
    return this.columns[this.names[0]].length;
  }

  /** Throws LoadError if the columns have different lengths. */
  checkLengths(): void {
    const lengths = this.names.map((column) => this.columns[column].length);
    if (lengths.every((length, c) => length === lengths[0] || (!length && c >= this.required))) return;
    const each = this.names.map((column, i) => `${column} ${count(lengths[i])}`).join(", ");
    throw new LoadError(`the columns have different lengths, so the file is damaged: ${each}`);
  }

  /** A distance from bytes; NaN if there is none. Throws LoadError, with `where`, for what is no number. */
  numberAt(buf: Uint8Array, start: number, end: number, column: string, where: () => string): number {
    const value = float32At(buf, start, end);
    if (value === value) return value;
    const reason = special(buf, start, end);
    if (reason === "malformed") throw malformed(latin1(buf, start, end), column, where());
    if (reason === "infinite") this.infinite = true;
    return NaN;
  }

  numberOf(value: number): number {
    const rounded = Math.fround(value);
    if (rounded === Infinity || rounded === -Infinity) {
      this.infinite = true;
      return NaN;
    }
    return rounded;
  }
}

export function wholeAt(buf: Uint8Array, start: number, end: number, column: string, where: () => string): number {
  const value = integerAt(buf, start, end);
  if (value < 0) throw malformed(latin1(buf, start, end), column, where());
  return value;
}

export function wholeOf(value: unknown, column: string, where: () => string): number {
  const whole = typeof value === "number" || typeof value === "bigint" ? checkedInteger(Number(value)) : -1;
  if (whole < 0) throw malformed(String(value), column, where());
  return whole;
}

export function malformed(text: string, column: string, where: string): LoadError {
  const kind = column in KINDS ? KINDS[column as ColumnName] : "number";
  const expected = kind === "integer" ? "whole number" : kind === "text" ? "text" : "number";
  return new LoadError(`${where}: ${column} is ${quoted(text)}, which is not a ${expected}`);
}
