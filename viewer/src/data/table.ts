/** The long table as the parsers fill it: one growing typed array a column, texts as numbers. */

import { LoadError, count, listed, NotResults, quoted } from "./errors.ts";
import { checkedInteger, float32At, integerAt, latin1, special } from "./numbers.ts";
import { Texts } from "./texts.ts";

export const COLUMNS = [
  "generation_step", "layer", "token_masked", "token_position", "variant", "l2_distance", "cosine_distance",
] as const;

export type ColumnName = (typeof COLUMNS)[number];
export type ColumnKind = "integer" | "text" | "number";

export const KINDS: Record<ColumnName, ColumnKind> = {
  generation_step: "integer",
  layer: "integer",
  token_masked: "text",
  token_position: "integer",
  variant: "text",
  l2_distance: "number",
  cosine_distance: "number",
};

/** 2^25. At 28 bytes a row 0.9 GB, about what a tab can hold beside the cube made of them. */
export const MAX_ROWS = 33_554_432;

/** Which of a file's columns are ours. Throws NotResults for a missing one, LoadError for one that is there twice. */
export function findColumns(names: readonly string[]): (ColumnName | null)[] {
  const missing = COLUMNS.filter((column) => !names.includes(column));
  if (missing.length) throw new NotResults(missing, [...names]);
  const twice = COLUMNS.find((column) => names.indexOf(column) !== names.lastIndexOf(column));
  if (twice) throw new LoadError(`the column ${twice} is there twice: ${listed(names)}`);
  return names.map((name) => columnNamed(name));
}

export function columnNamed(name: string): ColumnName | null {
  return (COLUMNS as readonly string[]).includes(name) ? (name as ColumnName) : null;
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
      throw new LoadError(`more than ${count(MAX_ROWS)} rows do not fit into a browser: measure fewer layers or variants`);
    }
    const larger = new this.#make(this.length * 2);
    larger.set(this.data);
    this.data = larger;
  }
}

export class Table {
  readonly texts = new Texts();
  /** Text columns hold numbers of `texts`. */
  readonly columns: Record<ColumnName, Column<Int32Array> | Column<Float32Array>> = {
    generation_step: new Column(Int32Array),
    layer: new Column(Int32Array),
    token_masked: new Column(Int32Array),
    token_position: new Column(Int32Array),
    variant: new Column(Int32Array),
    l2_distance: new Column(Float32Array),
    cosine_distance: new Column(Float32Array),
  };
  /** Some distances are infinite; they are stored as NaN, since no colour scale can show them. */
  infinite = false;
  /** Some tokens have no text at all (null, where a program took the token "null" for a missing value). */
  noText = false;

  get rows(): number {
    return this.columns.generation_step.length;
  }

  /** Throws LoadError if the columns have different lengths. */
  checkLengths(): void {
    const lengths = COLUMNS.map((column) => this.columns[column].length);
    if (lengths.every((length) => length === lengths[0])) return;
    const each = COLUMNS.map((column, i) => `${column} ${count(lengths[i])}`).join(", ");
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
