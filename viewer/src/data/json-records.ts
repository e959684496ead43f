/** JSON records, one at a time -> rows of the table; and single values of JSON as the table holds them. */

import {
  afterKey,
  afterSpace,
  begins,
  beginsOther,
  CLOSE_OBJECT,
  COMMA,
  jsonText,
  NULL,
  QUOTE,
  scalarEnd,
  stringEnd,
  valueEnd,
} from "./json-bytes.ts";
import { findColumns, malformed, needed, type ColumnKind, type ColumnName, type Table } from "./table.ts";
import { ColumnTexts, utf8 } from "./texts.ts";

export class Values {
  #table: Table;
  #texts = new Map<ColumnName, ColumnTexts>();
  #where: () => string;

  constructor(table: Table, where: () => string) {
    this.#table = table;
    this.#where = where;
  }

  /** One value as a number; texts become their number in the table. */
  read(name: ColumnName, kind: ColumnKind, buf: Uint8Array, start: number, end: number): number {
    if (kind === "number") {
      return this.#table.numberAt(buf, start, end, name, this.#where, beginsOther(buf[start]));
    }
    if (kind === "integer") return this.#table.wholeAt(buf, start, end, name, this.#where);
    if (buf[start] === QUOTE) return this.#textsOf(name).add(buf, start + 1, end - 1, jsonText);
    if (buf[start] !== NULL || end - start !== 4 || needed(name)) {
      throw malformed(utf8(buf.subarray(start, Math.min(end, start + 50))), name, this.#where(), "text");
    }
    this.#table.noText = true;
    return this.#table.texts.add(buf, start, start);
  }

  #textsOf(name: ColumnName): ColumnTexts {
    let found = this.#texts.get(name);
    if (!found) this.#texts.set(name, (found = new ColumnTexts(this.#table.texts)));
    return found;
  }
}

/** A column as records fill it. */
interface Slot {
  name: ColumnName;
  kind: ColumnKind;
  /** In every record, or in none. Others may be missing, or turn out to be no column at all. */
  strict: boolean;
  /** The table has it: results have the columns of the first record, effects all. */
  own: boolean;
  gone: boolean;
  /** In which record it was seen last, and what it was there. */
  record: number;
  value: number;
}

export class RecordReader {
  #table: Table;
  #values: Values;
  #fail: (what: string) => never;
  #slots: Slot[];
  #byName: Map<ColumnName, Slot>;
  /** Keys of the last record, in order: the next one most likely has the same. */
  #known: { bytes: Uint8Array; slot: Slot | null }[] = [];
  #record = 0;
  #dropped = 0;

  constructor(table: Table, values: Values, fail: (what: string) => never) {
    [this.#table, this.#values, this.#fail] = [table, values, fail];
    this.#slots = table.names.map((name) => this.#slot(name));
    this.#byName = new Map(this.#slots.map((slot) => [slot.name, slot]));
  }

  #slot(name: ColumnName): Slot {
    const strict = this.#table.isStrict(name);
    return { name, kind: this.#table.kindOf(name), strict, own: false, gone: false, record: 0, value: NaN };
  }

  /** Adds the record whose first field begins at `from`. Returns where it ends, -1 if more bytes are needed. */
  read(buf: Uint8Array, from: number): number {
    const before = this.#table.rows,
      first = !before;
    const others: string[] = []; // keys of the first record that are no columns
    this.#record++;
    let i = afterSpace(buf, from);
    for (let k = 0; buf[i] !== CLOSE_OBJECT; k++) {
      if (k > 0) {
        if (i < buf.length && buf[i] !== COMMA) this.#fail("a comma is missing in a record");
        i = afterSpace(buf, i + 1);
      }
      i = this.#field(buf, i, k, others);
      if (i < 0 || i >= buf.length) return -1;
    }
    if (this.#table.dropped.size > this.#dropped) this.#forget();
    this.#check(others);
    for (const slot of this.#slots) {
      const seen = slot.record === this.#record;
      if (seen && !slot.own && (first || this.#table.of === "effects")) this.#own(slot, before);
      if (slot.own && !slot.gone) this.#table.columns[slot.name].push(seen ? slot.value : NaN);
    }
    return i + 1;
  }

  /** A column that the file has; the records before this one have no value in it. */
  #own(slot: Slot, before: number): void {
    for (let record = 0; record < before; record++) this.#table.columns[slot.name].push(NaN);
    slot.own = true;
  }

  /** One key and its value. Returns where the comma or the end of the record is. */
  #field(buf: Uint8Array, start: number, k: number, others: string[]): number {
    const i = afterKey(buf, start, this.#fail);
    if (i < 0) return -1;
    const slot = this.#slotAt(buf, start, k, buf[i]);
    const end = slot?.strict ? scalarEnd(buf, i) : valueEnd(buf, i);
    if (end < 0) return -1;
    if (end === i) this.#fail("a value is missing");
    const after = afterSpace(buf, end);
    if (after >= buf.length) return -1;
    if (slot && !slot.gone) {
      if (slot.record === this.#record && slot.strict) this.#fail(`${slot.name} is there twice`);
      slot.value = this.#values.read(slot.name, slot.kind, buf, i, end);
      slot.record = this.#record;
      slot.gone = this.#table.dropped.has(slot.name);
    } else if (!this.#table.rows) {
      others.push(keyText(buf, start));
    }
    return after;
  }

  #forget(): void {
    this.#dropped = this.#table.dropped.size;
    this.#slots = this.#slots.filter(({ gone }) => !gone);
  }

  /** Throws if a column is missing that must be there. */
  #check(others: string[]): void {
    const { names, required, rows, of } = this.#table;
    const has = (slot: Slot) => slot.record === this.#record;
    const missing = this.#slots.slice(0, required).filter((slot) => !has(slot));
    if (missing.length) {
      const there = this.#slots.filter(has).map(({ name }) => name);
      if (!rows) findColumns([...there, ...others], this.#table, []); // throws
      this.#fail(`this record has no ${missing.map(({ name }) => name).join(", ")}`);
    }
    if (!rows) {
      findColumns([...names.slice(0, required), ...others], this.#table, []); // throws if there is no metric
    } else if (of !== "effects" && this.#slots.some((slot) => slot.strict && slot.own !== has(slot))) {
      this.#fail(`only some of the records have ${names.slice(required).join(", ")}`);
    }
  }

  /** The column a key names. Compared with the key at the same place of the record before, which is nearly free. */
  #slotAt(buf: Uint8Array, start: number, k: number, first: number): Slot | null {
    const known = this.#known[k];
    if (known && begins(buf, start, known.bytes)) return known.slot;
    const bytes = buf.slice(start, stringEnd(buf, start));
    const name = jsonText(bytes.subarray(1, -1));
    let slot = this.#byName.get(name) ?? null;
    if (!slot && !this.#table.rows && (!beginsOther(first) || this.#table.isMetricName(name)))
      slot = this.#metric(name);
    if (!slot && this.#table.rows && this.#table.isMetricName(name))
      this.#fail(`only some of the records have ${name}`);
    if (k < 64) this.#known[k] = { bytes, slot };
    return slot;
  }

  #metric(name: ColumnName): Slot | null {
    if (!this.#table.metricNamed(name)) return null;
    const slot = this.#slot(name);
    this.#slots.push(slot);
    this.#byName.set(name, slot);
    return slot;
  }
}

const keyText = (buf: Uint8Array, start: number) => jsonText(buf.subarray(start + 1, stringEnd(buf, start) - 1));
