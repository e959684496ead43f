/**
 * JSON as bytes, in chunks cut anywhere -> Table. Strings of millions of rows never exist: V8 ends at 512 MB.
 *
 *   {"layer":[0,0,...],"variant":["Full",...],...}     columns, in any order, with others between them (our files)
 *   {"layer":{"0":0,"1":0,...},...}                    the same with an index, as pandas writes it by default
 *   [{"layer":0,"variant":"Full",...},...]             records
 *   {"layer":0,...}\n{"layer":0,...}                   JSON lines
 *
 * Pretty-printed or not; null and NaN are missing values. What our columns do not need is skipped unchecked.
 */

import { count, LoadError, quoted } from "./errors.ts";
import { float32At } from "./numbers.ts";
import { MAX_UNIT, Pending } from "./pending.ts";
import {
  findColumns,
  KINDS,
  malformed,
  needed,
  type ColumnKind,
  type ColumnName,
  type Table,
  wholeAt,
} from "./table.ts";
import { ColumnTexts, utf8 } from "./texts.ts";

const QUOTE = 34,
  COMMA = 44,
  COLON = 58,
  BACKSLASH = 92;
const OPEN_LIST = 91,
  CLOSE_LIST = 93,
  OPEN_OBJECT = 123,
  CLOSE_OBJECT = 125;
const NULL = 110; // "n"

/** Space, tab, line feed, carriage return. */
const isSpace = (byte: number) => byte <= 32 && (byte === 32 || byte === 10 || byte === 13 || byte === 9);

const STATES = { start: 0, keys: 1, column: 2, skip: 3, records: 4, lines: 5, done: 6 } as const;
type State = (typeof STATES)[keyof typeof STATES];

export class JsonParser {
  readonly notes: string[] = [];
  #table: Table;
  #in = new Pending();
  #state: State = STATES.start;
  #started = false;
  /** Inside a list or object: is a comma due before the next element? */
  #comma = false;
  /** The columns seen so far, ours and others. */
  #keys: string[] = [];
  #column: ColumnName = "layer";
  #indexed = false; // the column is an object {"0": value, ...}
  #skip = { depth: 0, inString: false, escaped: false };
  /** Keys of the last record, in order: the next one most likely has the same. */
  #known: { bytes: Uint8Array; column: ColumnName | null }[] = [];
  #values: Float64Array;
  /** Columns of a table of records, by their place: results have those of the first record, effects all. */
  #own: number[] = [];
  #texts: Record<string, ColumnTexts>;

  constructor(table: Table) {
    this.#table = table;
    this.#values = new Float64Array(table.names.length);
    this.#texts = Object.fromEntries(table.names.map((name) => [name, new ColumnTexts(table.texts)]));
  }

  feed(chunk: Uint8Array): void {
    this.#in.add(chunk);
    this.#run(false);
    this.#in.checkLength(this.#where);
  }

  end(): void {
    this.#run(true);
    if (!this.#started) throw new LoadError("the file is empty");
    const complete =
      this.#state === STATES.done || (this.#state === STATES.lines && this.#in.pos === this.#in.buf.length);
    if (!complete) throw new LoadError(`the file is cut off: it ends in the middle of the data (${this.#where()})`);
    this.#table.checkLengths();
  }

  #run(last: boolean): void {
    if (!this.#started && !this.#in.skipMark(last)) return;
    while (this.#step(last));
  }

  /** Parses what can be parsed in the present state. False: more bytes are needed. */
  #step(last: boolean): boolean {
    const next = this.#skipSpace();
    if (next < 0) return false;
    this.#started = true;
    switch (this.#state) {
      case STATES.start:
        return this.#root(next, last);
      case STATES.keys:
        return this.#key(next);
      case STATES.column:
        return this.#elements();
      case STATES.skip:
        return this.#skipped();
      case STATES.records:
        return this.#record(next, CLOSE_LIST);
      case STATES.lines:
        return this.#record(next, -1);
      case STATES.done:
        throw new LoadError("there is more text after the end of the data: two files in one?");
    }
  }

  /** The next byte that is not white space, or -1. */
  #skipSpace(): number {
    const input = this.#in;
    const { buf } = input;
    while (input.pos < buf.length && isSpace(buf[input.pos])) input.pos++;
    return input.pos < buf.length ? buf[input.pos] : -1;
  }

  // --- the root: which of the four forms is it? ---------------------------------------------------------
  #root(next: number, last: boolean): boolean {
    if (next === OPEN_LIST) {
      this.#in.pos++;
      this.#state = STATES.records;
    } else if (next === OPEN_OBJECT) {
      const form = this.#formOf(last);
      if (!form) return false;
      if (form === STATES.keys) this.#in.pos++;
      this.#state = form;
    } else {
      throw new LoadError("no JSON object or list");
    }
    return true;
  }

  /** An object whose first known key has a list or object is columns; with a plain value it is a record. */
  #formOf(last: boolean): State | null {
    const { buf, pos } = this.#in;
    const unknown = last || buf.length - pos > MAX_UNIT ? STATES.keys : null;
    for (let i = pos + 1; ; i++) {
      i = afterSpace(buf, i);
      if (buf[i] === CLOSE_OBJECT) return STATES.lines;
      const keyEnd = buf[i] === QUOTE ? stringEnd(buf, i) : i < buf.length ? -2 : -1;
      const colon = keyEnd < 0 ? keyEnd : afterSpace(buf, keyEnd);
      const value = colon < 0 ? colon : afterSpace(buf, colon + 1);
      if (value === -2) return STATES.keys; // damaged; the error comes from there
      if (value < 0 || value >= buf.length) return unknown;
      const nested = buf[value] === OPEN_LIST || buf[value] === OPEN_OBJECT;
      if (this.#table.columnNamed(jsonText(buf.subarray(i + 1, keyEnd - 1))))
        return nested ? STATES.keys : STATES.lines;
      i = afterSpace(buf, valueEnd(buf, value));
      if (i < 0 || i >= buf.length) return unknown;
      if (buf[i] === CLOSE_OBJECT) return STATES.lines;
      if (buf[i] !== COMMA) return STATES.keys;
    }
  }

  // --- columns ------------------------------------------------------------------------------------------
  #key(next: number): boolean {
    const input = this.#in;
    const { buf } = input;
    if (next === CLOSE_OBJECT && (this.#comma || !this.#keys.length)) {
      findColumns(this.#keys, this.#table);
      input.pos++;
      this.#state = STATES.done;
      return true;
    }
    let i = input.pos;
    if (this.#comma) {
      if (next !== COMMA) this.#fail("a comma or } is missing");
      i = afterSpace(buf, i + 1);
      if (i >= buf.length) return false;
    }
    if (buf[i] !== QUOTE) this.#fail("a key in quotation marks is missing");
    const end = stringEnd(buf, i);
    if (end < 0) return false;
    const colon = afterSpace(buf, end);
    const value = afterSpace(buf, colon + 1);
    if (value >= buf.length) return false;
    if (buf[colon] !== COLON) this.#fail("a colon is missing after a key");
    const name = jsonText(buf.subarray(i + 1, end - 1));
    const column = this.#table.columnNamed(name);
    if (column && this.#keys.includes(name)) throw new LoadError(`the column ${name} is there twice`);
    this.#keys.push(name);
    input.pos = value;
    if (column) this.#openColumn(column, buf[value]);
    else this.#state = STATES.skip;
    return true;
  }

  #openColumn(column: ColumnName, first: number): void {
    if (first !== OPEN_LIST && first !== OPEN_OBJECT) {
      throw new LoadError(`${column} is no list, although the file begins with lists`);
    }
    this.#in.pos++;
    this.#column = column;
    this.#indexed = first === OPEN_OBJECT;
    this.#comma = false;
    this.#state = STATES.column;
  }

  /** As many elements of one column as are there. */
  #elements(): boolean {
    const input = this.#in;
    const { buf } = input;
    const name = this.#column;
    const kind = KINDS[name];
    const column = this.#table.columns[name];
    const close = this.#indexed ? CLOSE_OBJECT : CLOSE_LIST;
    const indexed = this.#indexed;
    // Local variables in the hot loop; kept for later by `leave`.
    let pos = input.pos,
      comma = this.#comma;
    const leave = (done: boolean) => {
      input.pos = pos;
      this.#comma = comma;
      return done;
    };
    for (;;) {
      let i = afterSpace(buf, pos);
      if (i >= buf.length) return leave(false);
      if (buf[i] === close && (comma || column.length === 0)) {
        pos = i + 1;
        comma = true;
        this.#state = STATES.keys;
        return leave(true);
      }
      if (comma) {
        if (buf[i] !== COMMA) this.#fail("a comma is missing between two values");
        i = afterSpace(buf, i + 1);
      }
      if (indexed) i = this.#afterKey(buf, i);
      const end = i < 0 ? -1 : scalarEnd(buf, i);
      if (end < 0) return leave(false);
      if (end === i) this.#fail("a value is missing");
      let value = kind === "number" ? float32At(buf, i, end) : NaN; // the short way for what is most of a file
      if (value !== value) value = this.#value(name, kind, buf, i, end);
      column.push(value);
      comma = true;
      pos = end;
    }
  }

  /** One value as a number; texts become their number in the table. */
  #value(name: ColumnName, kind: ColumnKind, buf: Uint8Array, start: number, end: number): number {
    if (kind === "number") return this.#table.numberAt(buf, start, end, name, this.#where);
    if (kind === "integer") return wholeAt(buf, start, end, name, this.#where);
    if (buf[start] === QUOTE) return this.#texts[name].add(buf, start + 1, end - 1, jsonText);
    if (buf[start] !== NULL || end - start !== 4 || needed(name)) {
      throw malformed(utf8(buf.subarray(start, Math.min(end, start + 50))), name, this.#where());
    }
    this.#table.noText = true;
    return this.#table.texts.add(buf, start, start);
  }

  /** Skips a value that is not ours, in whatever pieces it comes. */
  #skipped(): boolean {
    const input = this.#in;
    const { buf } = input;
    const skip = this.#skip;
    if (!skip.depth && !skip.inString && buf[input.pos] !== OPEN_LIST && buf[input.pos] !== OPEN_OBJECT) {
      const end = scalarEnd(buf, input.pos);
      if (end < 0) return false;
      if (end === input.pos) this.#fail("a value is missing");
      input.pos = end;
    } else {
      do {
        if (input.pos >= buf.length) return false;
        const byte = buf[input.pos++];
        if (skip.escaped) skip.escaped = false;
        else if (skip.inString) {
          if (byte === BACKSLASH) skip.escaped = true;
          else if (byte === QUOTE) skip.inString = false;
        } else if (byte === QUOTE) skip.inString = true;
        else if (byte === OPEN_LIST || byte === OPEN_OBJECT) skip.depth++;
        else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) skip.depth--;
      } while (skip.depth > 0);
    }
    this.#comma = true;
    this.#state = STATES.keys;
    return true;
  }

  // --- records ------------------------------------------------------------------------------------------
  /** One whole record. `close` ends the list of records; JSON lines (-1) have neither commas nor an end. */
  #record(next: number, close: number): boolean {
    const input = this.#in;
    const { buf } = input;
    let i = input.pos;
    if (next === close && (this.#comma || !this.#table.rows)) {
      if (!this.#table.rows) throw new LoadError("the list of records is empty");
      input.pos++;
      this.#state = STATES.done;
      return true;
    }
    if (this.#comma && close >= 0) {
      if (next !== COMMA) this.#fail("a comma is missing between two records");
      i = afterSpace(buf, i + 1);
      if (i >= buf.length) return false;
    }
    if (buf[i] !== OPEN_OBJECT) this.#fail("this is no record {...}");
    const end = this.#fields(buf, i + 1);
    if (end < 0) return false;
    for (const c of this.#own) this.#table.columns[this.#table.names[c]].push(this.#values[c]);
    this.#comma = true;
    input.pos = end;
    return true;
  }

  /** Reads the fields of a record into `#values`. Returns where it ends, -1 if more bytes are needed. */
  #fields(buf: Uint8Array, from: number): number {
    let i = afterSpace(buf, from),
      seen = 0;
    const keys: string[] = [],
      { names, required } = this.#table;
    this.#values.fill(NaN, required);
    for (let k = 0; buf[i] !== CLOSE_OBJECT || k === 0; k++) {
      if (k === 0 && buf[i] === CLOSE_OBJECT) break;
      if (k > 0) {
        if (i < buf.length && buf[i] !== COMMA) this.#fail("a comma is missing in a record");
        i = afterSpace(buf, i + 1);
      }
      const keyStart = i;
      i = this.#afterKey(buf, i);
      if (i < 0) return -1;
      const column = this.#keyNumber(buf, keyStart, k);
      const end = column ? scalarEnd(buf, i) : valueEnd(buf, i);
      if (end < 0) return -1;
      if (end === i) this.#fail("a value is missing");
      const after = afterSpace(buf, end);
      if (after >= buf.length) return -1;
      if (column) {
        const c = names.indexOf(column);
        if (seen & (1 << c)) this.#fail(`${column} is there twice`);
        this.#values[c] = this.#value(column, KINDS[column], buf, i, end);
        seen |= 1 << c;
      } else if (!this.#table.rows) {
        keys.push(this.#keyText(buf, keyStart));
      }
      i = after;
    }
    if (i >= buf.length) return -1;
    if (~seen & ((1 << required) - 1)) this.#incomplete(seen, keys);
    if (!this.#table.rows) this.#own = [...names.keys()].filter((c) => (seen >> c) & 1 || this.#table.of === "effects");
    else if (this.#table.of !== "effects" && seen !== this.#own.reduce((bits, c) => bits | (1 << c), 0))
      this.#fail(`only some of the records have ${names.slice(required).join(", ")}`);
    return i + 1;
  }

  #incomplete(seen: number, others: string[]): never {
    const [has, missing] = [1, 0].map((bit) =>
      this.#table.names.filter((_, c) => ((seen >> c) & 1) === bit && c < this.#table.required),
    );
    if (!this.#table.rows) findColumns([...has, ...others], this.#table); // throws
    this.#fail(`this record has no ${missing.join(", ")}`);
  }

  /** The column a key names. Compared with the key at the same place of the record before, which is nearly free. */
  #keyNumber(buf: Uint8Array, start: number, k: number): ColumnName | null {
    const known = this.#known[k];
    if (known && begins(buf, start, known.bytes)) return known.column;
    const bytes = buf.slice(start, stringEnd(buf, start));
    const column = this.#table.columnNamed(jsonText(bytes.subarray(1, -1)));
    if (k < 64) this.#known[k] = { bytes, column };
    return column;
  }

  #keyText(buf: Uint8Array, start: number): string {
    return jsonText(buf.subarray(start + 1, stringEnd(buf, start) - 1));
  }

  /** Where the value begins whose key begins at `i`; -1 if more bytes are needed. */
  #afterKey(buf: Uint8Array, i: number): number {
    if (i >= buf.length) return -1;
    if (buf[i] !== QUOTE) this.#fail("a key in quotation marks is missing");
    const end = stringEnd(buf, i);
    if (end < 0) return -1;
    const colon = afterSpace(buf, end);
    if (colon >= buf.length) return -1;
    if (buf[colon] !== COLON) this.#fail("a colon is missing after a key");
    const value = afterSpace(buf, colon + 1);
    return value < buf.length ? value : -1;
  }

  /** An arrow function made once, since it is passed on with every value. */
  #where = (): string => {
    if (this.#state === STATES.column)
      return `${this.#column}, value ${count(this.#table.columns[this.#column].length + 1)}`;
    if (this.#state === STATES.records || this.#state === STATES.lines) return `record ${count(this.#table.rows + 1)}`;
    return this.#keys.length ? `after the column ${quoted(this.#keys[this.#keys.length - 1])}` : "at the beginning";
  };

  #fail(what: string): never {
    throw new LoadError(`${this.#where()}: ${what}, so this is no valid JSON`);
  }
}

// --- places in the bytes; -1 if they end before the answer is known ---------------------------------------
function afterSpace(buf: Uint8Array, i: number): number {
  while (i < buf.length && isSpace(buf[i])) i++;
  return i;
}

/** After the closing quotation mark of the string that opens at `i`. */
function stringEnd(buf: Uint8Array, i: number): number {
  for (i++; i < buf.length; i++) {
    const byte = buf[i];
    if (byte === QUOTE) return i + 1;
    if (byte === BACKSLASH) i++;
  }
  return -1;
}

/** After a string, number or literal. It has ended only if something follows. */
function scalarEnd(buf: Uint8Array, i: number): number {
  if (buf[i] === QUOTE) return stringEnd(buf, i);
  for (; i < buf.length; i++) {
    const ends = ENDS[buf[i]];
    if (ends) return ends === 1 ? i : i + 1;
  }
  return -1;
}

/** 1: ends a number or literal; 2: cannot be in one, so that it must fail as a value. A table: one look for each byte. */
const ENDS = new Uint8Array(256);
for (const byte of [COMMA, CLOSE_LIST, CLOSE_OBJECT, 32, 10, 13, 9]) ENDS[byte] = 1;
for (const byte of [OPEN_LIST, OPEN_OBJECT, QUOTE]) ENDS[byte] = 2;

/** After any value. */
function valueEnd(buf: Uint8Array, i: number): number {
  if (buf[i] !== OPEN_LIST && buf[i] !== OPEN_OBJECT) return scalarEnd(buf, i);
  for (let depth = 0; i < buf.length; i++) {
    const byte = buf[i];
    if (byte === QUOTE) {
      i = stringEnd(buf, i) - 1;
      if (i < 0) return -1;
    } else if (byte === OPEN_LIST || byte === OPEN_OBJECT) depth++;
    else if ((byte === CLOSE_LIST || byte === CLOSE_OBJECT) && --depth === 0) return i + 1;
  }
  return -1;
}

function begins(buf: Uint8Array, start: number, bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) if (buf[start + i] !== bytes[i]) return false;
  return true;
}

/** The text of a JSON string without its quotation marks. Half of a surrogate pair stays what it is. */
function jsonText(bytes: Uint8Array): string {
  const text = utf8(bytes);
  // Plain text needs no parser; JSON.parse refuses raw control characters and unknown escapes.
  if (!/[\\\u0000-\u001f]/.test(text)) return text;
  try {
    return JSON.parse(`"${text}"`) as string;
  } catch {
    throw new LoadError(`${quoted(text)} is no valid JSON text`);
  }
}
