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
import {
  afterKey,
  afterSpace,
  BACKSLASH,
  beginsOther,
  CLOSE_LIST,
  CLOSE_OBJECT,
  COLON,
  COMMA,
  isSpace,
  jsonText,
  OPEN_LIST,
  OPEN_OBJECT,
  QUOTE,
  scalarEnd,
  stringEnd,
  valueEnd,
} from "./json-bytes.ts";
import { RecordReader, Values } from "./json-records.ts";
import { MAX_UNIT, Pending } from "./pending.ts";
import { findColumns, type ColumnName, type Table } from "./table.ts";

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
  #values: Values;
  #records: RecordReader;

  constructor(table: Table) {
    this.#table = table;
    this.#values = new Values(table, this.#where);
    this.#records = new RecordReader(table, this.#values, (what) => this.#fail(what));
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
      findColumns(this.#keys, this.#table, []);
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
    const first = this.#firstElement(buf, value);
    if (first >= buf.length || first < 0) return false;
    const twice = this.#keys.includes(name);
    const column = this.#columnOf(name, !twice && first > value && !beginsOther(buf[first]));
    if (twice && column && this.#table.isStrict(column)) throw new LoadError(`the column ${name} is there twice`);
    this.#keys.push(name);
    input.pos = value;
    if (column && !twice) this.#openColumn(column, buf[value]);
    else this.#state = STATES.skip;
    return true;
  }

  /** Where the first element of a list, or of an object with an index, begins; of anything else it is the value itself. */
  #firstElement(buf: Uint8Array, value: number): number {
    if (buf[value] !== OPEN_LIST && buf[value] !== OPEN_OBJECT) return value;
    const i = afterSpace(buf, value + 1);
    return buf[value] === OPEN_OBJECT && buf[i] === QUOTE ? this.#afterKey(buf, i) : i;
  }

  /** A column of the table; any other one may be a metric if it begins with a number or must be one by its name. */
  #columnOf(name: string, number: boolean): ColumnName | null {
    const known = this.#table.columnNamed(name);
    if (known) return known;
    return number || this.#table.isMetricName(name) ? this.#table.metricNamed(name) : null;
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
    const kind = this.#table.kindOf(name);
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
      if (value !== value) {
        value = this.#values.read(name, kind, buf, i, end);
        if (this.#table.dropped.has(name)) {
          pos = i; // what is left of it is skipped
          this.#skip.depth = 1;
          this.#state = STATES.skip;
          return leave(true);
        }
      }
      column.push(value);
      comma = true;
      pos = end;
    }
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
    const end = this.#records.read(buf, i + 1);
    if (end < 0) return false;
    this.#comma = true;
    input.pos = end;
    return true;
  }

  /** An arrow function made once, since it is passed on with every value. */
  #where = (): string => {
    if (this.#state === STATES.column)
      return `${this.#column}, value ${count(this.#table.columns[this.#column].length + 1)}`;
    if (this.#state === STATES.records || this.#state === STATES.lines) return `record ${count(this.#table.rows + 1)}`;
    return this.#keys.length ? `after the column ${quoted(this.#keys[this.#keys.length - 1])}` : "at the beginning";
  };

  #afterKey(buf: Uint8Array, i: number): number {
    return afterKey(buf, i, (what) => this.#fail(what));
  }

  #fail(what: string): never {
    throw new LoadError(`${this.#where()}: ${what}, so this is no valid JSON`);
  }
}
