/** The long table as the parsers fill it: one growing typed array a column, texts as numbers. */

import { LoadError, count, listed, NotResults, quoted } from "./errors.ts";
import { checkedInteger, float32At, integerAt, latin1, special } from "./numbers.ts";
import { Texts } from "./texts.ts";

/** What a row is of. Every further column of numbers in a results table is a metric. */
const KEYS = ["generation_step", "layer", "token_masked", "token_position", "variant"] as const;

/** Only in a table of other query positions than those that predict the output. */
const QUERY_POSITION = "query_position";

/** Columns of numbers that programs add to a table: its index. */
const INDEX = /^(|index|level_\d+|Unnamed: \d+|__index_level_\d+__)$/;
/** Where a single patch is in its picture. The page draws image tokens, so it has no use for them. */
const PATCH = /^patch_(row|col)$/;
/** A column with this ending holds numbers and nothing else; whether others do is seen when they are read. */
const STRICT = /_distance$/;
/** More arrays of the size of the table would fill the memory. */
const MOST_METRICS = 16;

export type ColumnKind = "integer" | "text" | "number";

const KINDS: Record<string, ColumnKind> = {
  layer: "integer",
  variant: "text",
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
  head: "integer",
  injection: "text",
  vision_layer: "text",
  decoder_layer: "text",
  action: "text",
  unit_level: "integer",
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
};

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
  results: { what: "result table", names: [...KEYS, QUERY_POSITION], required: KEYS.length },
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
      "head",
      "unit_level",
      "injection", // of DeepStack
      "vision_layer",
      "decoder_layer",
      "action",
    ],
  },
  neighbors: { what: "table of neighbours", names: NEIGHBOR_COLUMNS, required: 5 },
};

export type TableOf = "results" | "effects" | "neighbors";
/** One of `names` below, or a metric as the file calls it. */
export type ColumnName = string;

/** A text that names what a row is of cannot be missing; a token can. */
export const needed = (column: ColumnName) => column === "variant" || column === "block" || column === "kind";

/** 2^25. At 28 bytes a row 0.9 GB, about what a tab can hold beside the cube made of them. */
export const MAX_ROWS = 33_554_432;

/**
 * Those of a table's columns that a file has; in results also what may be a metric. Throws NotResults for a missing one,
 * LoadError for one that is there twice. `numeric` are the columns that may hold numbers, where the file tells.
 */
export function findColumns(names: readonly string[], table: Table, numeric = names): ColumnName[] {
  const missing = table.names.filter((column, c) => c < table.required && !names.includes(column));
  if (missing.length) throw new NotResults(missing, [...names], table.what);
  for (const name of numeric) table.metricNamed(name);
  if (table.of === "results" && !table.metrics.length) throw new NoMetric(names);
  const twice = table.names.find(
    (column) => table.isStrict(column) && names.indexOf(column) !== names.lastIndexOf(column),
  );
  if (twice) throw new LoadError(`the column ${twice} is there twice: ${listed(names)}`);
  return table.names.filter((column) => names.includes(column));
}

class NoMetric extends LoadError {
  constructor(names: readonly string[]) {
    super(`not a result table: it has no column of distances, such as l2_distance; found ${listed(names)}`);
  }
}

class Column<A extends Int32Array | Float32Array> {
  length = 0;
  data: A;
  /** Some values are infinite; they are stored as NaN, since no colour scale can show them. */
  infinite = false;
  #make: new (length: number) => A;
  constructor(make: new (length: number) => A) {
    this.#make = make;
    this.data = new make(4096);
  }

  push(value: number): void {
    if (this.length === this.data.length) this.#grow();
    this.data[this.length++] = value;
  }

  append(values: Int32Array | Float32Array): void {
    const end = this.length + values.length;
    while (end > this.data.length) this.#grow();
    this.data.set(values, this.length);
    this.length = end;
  }

  #grow(): void {
    if (this.data.length >= MAX_ROWS) {
      throw new LoadError(
        `more than ${count(MAX_ROWS)} rows do not fit into a browser: measure fewer layers or variants`,
      );
    }
    const larger = new this.#make(this.data.length * 2);
    larger.set(this.data);
    this.data = larger;
  }
}

export type AnyColumn = Column<Int32Array> | Column<Float32Array>;

export class Table {
  readonly texts = new Texts();
  readonly of: TableOf;
  readonly what: string;
  /** Of a results table, the metrics come last, as they are found. */
  readonly names: ColumnName[];
  /** So many of `names`, the first ones, have to be in a file. */
  readonly required: number;
  /** Text columns hold numbers of `texts`. Those of the other kind of table are not there. */
  readonly columns: Record<ColumnName, AnyColumn> = Object.create(null);
  /** Some tokens have no text at all (null, where a program took the token "null" for a missing value). */
  noText = false;
  /** Columns that seemed to be metrics until there was a text in them; and sentences about those that held numbers, too. */
  readonly dropped = new Set<ColumnName>();
  readonly notes: string[] = [];
  #own: number; // so many of `names`, the first ones, are not metrics

  constructor(of: TableOf = "results") {
    this.of = of;
    const { what, names, required } = TABLES[of];
    [this.what, this.names, this.required, this.#own] = [what, [...names], required, names.length];
    for (const name of names)
      this.columns[name] = KINDS[name] === "number" ? new Column(Float32Array) : new Column(Int32Array);
  }

  get metrics(): ColumnName[] {
    return this.names.slice(this.#own);
  }

  kindOf(name: ColumnName): ColumnKind {
    return this.names.indexOf(name) < this.#own ? KINDS[name] : "number";
  }

  columnNamed(name: string): ColumnName | null {
    return this.names.find((each) => each === name) ?? null;
  }

  /** A column that may be a metric, as far as its name tells; null: it cannot be one. */
  metricNamed(name: string): ColumnName | null {
    const known = this.columnNamed(name);
    if (known) return known;
    const none = this.of !== "results" || INDEX.test(name) || PATCH.test(name) || this.dropped.has(name);
    if (none || this.metrics.length >= MOST_METRICS) return null;
    this.columns[name] = new Column(Float32Array);
    this.names.push(name);
    return name;
  }

  /** Leaves out a column that holds something other than numbers. False: it has to stay, so that is an error. */
  drop(name: ColumnName, why = ""): boolean {
    if (this.isStrict(name)) return false;
    if (why && this.hasNumbers(name)) this.notes.push(`The column ${name} is not shown: ${why}.`);
    this.dropped.add(name);
    this.names.splice(this.names.indexOf(name), 1);
    delete this.columns[name];
    return true;
  }

  /** Whether a column that is named like this can be nothing but a metric. */
  isMetricName(name: string): boolean {
    return this.of === "results" && STRICT.test(name);
  }

  /** Whether a value that does not belong in this column is an error; if not, the column is left out. */
  isStrict(name: ColumnName): boolean {
    return this.names.indexOf(name) < this.#own || STRICT.test(name);
  }

  get rows(): number {
    return this.columns[this.names[0]].length;
  }

  get infinite(): boolean {
    return this.names.some((name) => this.columns[name].infinite);
  }

  /** When all is read. Throws LoadError if the columns have different lengths, or results a step that effects have. */
  checkLengths(): void {
    const lengthOf = (name: ColumnName) => this.columns[name].length;
    for (const name of this.metrics)
      if (lengthOf(name) !== this.rows || (this.rows && !this.hasNumbers(name))) this.drop(name);
    const wrong = (name: ColumnName, c: number) =>
      lengthOf(name) !== this.rows && (lengthOf(name) || c < this.required || (this.isStrict(name) && c >= this.#own));
    if (this.names.some(wrong)) {
      const each = this.names.map((name) => `${name} ${count(lengthOf(name))}`).join(", ");
      throw new LoadError(`the columns have different lengths, so the file is damaged: ${each}`);
    }
    if (this.of === "results" && !this.metrics.length) throw new NoMetric(this.names);
    const step = this.of === "results" && this.columns["generation_step"];
    if (step && step.data.subarray(0, step.length).includes(-1))
      throw malformed("-1", "generation_step", "a row", "integer");
  }

  hasNumbers(name: ColumnName): boolean {
    const { data, length } = this.columns[name];
    for (let row = 0; row < length; row++) if (data[row] === data[row]) return true;
    return false;
  }

  /**
   * A number from bytes; NaN if there is none. Throws LoadError, with `where`, for anything else, unless the column need
   * not be a metric and the value is `droppable`: not a damaged number.
   */
  numberAt(
    buf: Uint8Array,
    start: number,
    end: number,
    column: ColumnName,
    where: () => string,
    droppable = true,
  ): number {
    const value = float32At(buf, start, end);
    if (value === value) return value;
    const reason = special(buf, start, end);
    if (reason === "infinite") this.columns[column].infinite = true;
    if (reason === "malformed") {
      const error = malformed(latin1(buf, start, end), column, where(), "number");
      if (!droppable || !this.drop(column, error.message)) throw error;
    }
    return NaN;
  }

  /** As `numberOf`, many at once; `values` are taken over. */
  appendNumbers(values: Float32Array, column: ColumnName): void {
    for (let i = 0; i < values.length; i++) {
      if (values[i] === Infinity || values[i] === -Infinity) values[i] = this.numberOf(values[i], column);
    }
    this.columns[column].append(values);
  }

  /** A number as the table holds it. */
  wholeAt(buf: Uint8Array, start: number, end: number, column: ColumnName, where: () => string): number {
    const value = integerAt(buf, start, end);
    if (value < 0 && !(this.#canBeAll(column) && latin1(buf, start, end) === "-1"))
      throw malformed(latin1(buf, start, end), column, where(), "integer");
    return value;
  }

  wholeOf(value: unknown, column: ColumnName, where: () => string): number {
    const number = typeof value === "number" || typeof value === "bigint" ? Number(value) : NaN;
    const whole = checkedInteger(number);
    if (whole < 0 && !(this.#canBeAll(column) && number === -1))
      throw malformed(String(value), column, where(), "integer");
    return whole;
  }

  /** Effects have rows for the whole answer; their step is -1. JSON is read as results until a column is missing. */
  #canBeAll(column: ColumnName): boolean {
    return this.of !== "neighbors" && column === "generation_step";
  }

  numberOf(value: number, column: ColumnName): number {
    const rounded = Math.fround(value);
    if (rounded === Infinity || rounded === -Infinity) {
      this.columns[column].infinite = true;
      return NaN;
    }
    return rounded;
  }
}

export function malformed(text: string, column: string, where: string, kind: ColumnKind): LoadError {
  const expected = kind === "integer" ? "whole number" : kind;
  return new LoadError(`${where}: ${column} is ${quoted(text)}, which is not a ${expected}`);
}
