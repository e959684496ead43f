/**
 * CSV as bytes, in chunks cut anywhere -> Table.
 *
 * RFC 4180: quoted fields with doubled quotes and line breaks inside; LF or CRLF; a byte order mark. Columns in any
 * order with others between them; comma, semicolon or tab. Empty lines are skipped. Every row must have as many fields
 * as the header, and every number must be one: anything else is an error with the line it is in.
 */

import { count, LoadError, plural } from "./errors.ts";
import { float32At } from "./numbers.ts";
import { Pending } from "./pending.ts";
import { findColumns, type AnyColumn, type ColumnKind, type ColumnName, type Table } from "./table.ts";
import { ColumnTexts, utf8 } from "./texts.ts";

const LF = 10,
  CR = 13,
  QUOTE = 34,
  SPACE = 32,
  TAB = 9;
const DELIMITERS = [",", ";", "\t"].map((text) => text.charCodeAt(0));

interface Target {
  name: ColumnName;
  kind: ColumnKind;
  field: number;
  column: AnyColumn;
  texts: ColumnTexts;
}

export class CsvParser {
  readonly notes: string[] = [];
  #table: Table;
  #in = new Pending();
  #started = false;
  #delimiter = DELIMITERS[0];
  #header: string[] = [];
  #targets: Target[] = [];
  #dropped = 0; // columns that turned out not to be metrics
  #line = 1;
  // Of the row found last: where each field begins and ends, and whether it was quoted (2: with quotes inside).
  #starts = new Int32Array(64);
  #ends = new Int32Array(64);
  #quoted = new Uint8Array(64);
  #fields = 0;
  #breaks = 0; // line breaks inside its fields

  constructor(table: Table) {
    this.#table = table;
  }

  feed(chunk: Uint8Array): void {
    this.#in.add(chunk);
    this.#run(false);
    this.#in.checkLength(this.#where);
  }

  end(): void {
    this.#run(true);
    if (!this.#header.length) throw new LoadError("the file is empty");
    this.#table.checkLengths();
  }

  #run(last: boolean): void {
    const input = this.#in;
    if (!this.#started) {
      if (!input.skipMark(last)) return;
      this.#started = true;
    }
    const { buf } = input;
    while (input.pos < buf.length) {
      const next = this.#findRow(buf, input.pos);
      if (next < 0) {
        if (last) this.#lastRow();
        return;
      }
      this.#takeRow(buf);
      input.pos = next;
    }
  }

  /** Finds the fields of the row that begins at `pos`. Returns where the next one begins, or -1 if this one goes on. */
  #findRow(buf: Uint8Array, pos: number): number {
    const delimiter = this.#header.length ? this.#delimiter : this.#guessDelimiter(buf, pos);
    const length = buf.length;
    let starts = this.#starts,
      ends = this.#ends,
      quotes = this.#quoted;
    let field = 0,
      breaks = 0;
    for (;;) {
      if (field === starts.length) {
        this.#moreFields();
        [starts, ends, quotes] = [this.#starts, this.#ends, this.#quoted];
      }
      let i = pos,
        quoted = 0;
      if (buf[i] === QUOTE) {
        const start = ++i;
        quoted = 1;
        for (; ; i++) {
          if (i >= length) return -1;
          const byte = buf[i];
          if (byte === LF) breaks++;
          if (byte !== QUOTE) continue;
          if (i + 1 >= length) return -1;
          if (buf[i + 1] !== QUOTE) break;
          quoted = 2;
          i++;
        }
        starts[field] = start;
        ends[field] = i++;
        if (buf[i] === CR) i++;
        if (i >= length) return -1;
        if (buf[i] !== delimiter && buf[i] !== LF) this.#fail("there is text after a closing quotation mark");
      } else {
        while (i < length && buf[i] !== delimiter && buf[i] !== LF) i++;
        if (i >= length) return -1;
        starts[field] = pos;
        ends[field] = buf[i] === LF && i > pos && buf[i - 1] === CR ? i - 1 : i;
      }
      quotes[field++] = quoted;
      pos = i + 1;
      if (buf[i] === LF) {
        this.#fields = field;
        this.#breaks = breaks;
        return pos;
      }
    }
  }

  #takeRow(buf: Uint8Array): void {
    const fields = this.#fields;
    if (!this.#header.length) {
      this.#readHeader(buf);
    } else if (fields === this.#header.length) {
      this.#store(buf);
    } else if (fields > 1 || this.#ends[0] > this.#starts[0]) {
      const has = `${plural(fields, "field")}, and the header has ${count(this.#header.length)}`;
      this.#fail(`this row has ${has}`);
    }
    this.#line += 1 + this.#breaks;
  }

  #store(buf: Uint8Array): void {
    const table = this.#table;
    const where = this.#where;
    const starts = this.#starts,
      ends = this.#ends;
    for (const { name, kind, field, column, texts } of this.#targets) {
      let start = starts[field],
        end = ends[field];
      if (kind === "text") {
        const escaped = this.#quoted[field] === 2; // with its quotation marks: a"" and "a""" are two texts
        column.push(escaped ? texts.add(buf, start - 1, end + 1, unquote) : texts.add(buf, start, end));
        continue;
      }
      while (start < end && (buf[start] === SPACE || buf[start] === TAB)) start++;
      while (end > start && (buf[end - 1] === SPACE || buf[end - 1] === TAB)) end--;
      column.push(
        kind === "integer" ? table.wholeAt(buf, start, end, name, where) : table.numberAt(buf, start, end, name, where),
      );
    }
    if (table.dropped.size > this.#dropped) {
      this.#dropped = table.dropped.size;
      this.#targets = this.#targets.filter(({ name }) => !table.dropped.has(name));
    }
  }

  #readHeader(buf: Uint8Array): void {
    for (let i = 0; i < this.#fields; i++) {
      const [start, end] = [this.#starts[i], this.#ends[i]];
      const escaped = this.#quoted[i] === 2;
      this.#header.push((escaped ? unquote(buf.subarray(start - 1, end + 1)) : utf8(buf.subarray(start, end))).trim());
    }
    this.#targets = findColumns(this.#header, this.#table).map((name) => ({
      name,
      kind: this.#table.kindOf(name),
      field: this.#header.indexOf(name),
      column: this.#table.columns[name],
      texts: new ColumnTexts(this.#table.texts),
    }));
  }

  /** A file that does not end with a line break: RFC 4180 allows it, and a file that was cut off looks the same. */
  #lastRow(): void {
    this.#in.add(Uint8Array.of(LF));
    const { buf, pos } = this.#in;
    if (this.#findRow(buf, pos) < 0) this.#fail("the file is cut off inside of quotation marks that open in this row");
    if (buf.subarray(pos).includes(0)) this.#fail("the file is damaged: its last row has null characters");
    const columns = this.#header.length;
    if (columns && this.#fields < columns && this.#fields + this.#ends[0] - this.#starts[0] > 1) {
      this.#fail(`the file is cut off in this row, which has ${this.#fields} of ${plural(columns, "field")}`);
    }
    const cut = this.#targets.find(({ field }) => field === columns - 1);
    if (this.#fields === columns && cut && this.#mayBeCut(buf, cut)) {
      const value = `its last value, the ${cut.name}, may be cut off`;
      this.notes.push(`The last line has no line break at its end, so ${value}: this row was left out.`);
    } else {
      this.#takeRow(buf);
    }
  }

  /** Not of a text in a column without any number, which is not a metric. */
  #mayBeCut(buf: Uint8Array, { name, field }: Target): boolean {
    if (this.#table.isStrict(name) || this.#table.hasNumbers(name)) return true;
    const [start, end] = [this.#starts[field], this.#ends[field]];
    return start === end || !isNaN(float32At(buf, start, end));
  }

  /** The separator that occurs most often in the first line. */
  #guessDelimiter(buf: Uint8Array, pos: number): number {
    const end = buf.indexOf(LF, pos);
    const line = buf.subarray(pos, end < 0 ? buf.length : end);
    const times = DELIMITERS.map((delimiter) => line.reduce((n, byte) => n + (byte === delimiter ? 1 : 0), 0));
    this.#delimiter = DELIMITERS[times.indexOf(Math.max(...times))];
    return this.#delimiter;
  }

  #moreFields(): void {
    if (this.#starts.length >= 65_536) this.#fail("this row has more than 65,536 fields");
    const longer = <A extends Int32Array | Uint8Array>(old: A, fresh: A): A => (fresh.set(old), fresh);
    const length = this.#starts.length * 4;
    this.#starts = longer(this.#starts, new Int32Array(length));
    this.#ends = longer(this.#ends, new Int32Array(length));
    this.#quoted = longer(this.#quoted, new Uint8Array(length));
  }

  #fail(what: string): never {
    throw new LoadError(`${this.#where()}: ${what}`);
  }

  /** An arrow function made once, since it is passed on with every value. */
  #where = () => `line ${count(this.#line)}`;
}

const unquote = (bytes: Uint8Array) => utf8(bytes.subarray(1, -1)).replaceAll('""', '"');
