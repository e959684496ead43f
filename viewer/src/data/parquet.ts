/**
 * Parquet -> Table, by hyparquet.
 *
 * One column of one row group at a time keeps memory small. Its bytes are looked at (parquet-guard.ts) before hyparquet
 * decodes them. Texts become numbers of the table as they are decoded, those of a dictionary once each.
 */

import { parquetMetadataAsync, parquetRead, parquetSchema } from "hyparquet";
import type { AsyncBuffer, DecodedArray, FileMetaData, RowGroup, SchemaElement } from "hyparquet";

import { count, LoadError } from "./errors.ts";
import { checkedPages } from "./parquet-guard.ts";
import { findColumns, malformed, MAX_ROWS, needed, type ColumnName, type Table } from "./table.ts";

export interface ParquetOptions {
  onProgress?: (bytes: number) => void;
  /** Called between columns; may throw to abort, may wait to let a page breathe. */
  between?: () => Promise<void>;
}

/** Fills the table. Returns the text of the manifest in the file's metadata, if there is one. */
export async function readParquet(file: Blob, table: Table, options: ParquetOptions = {}): Promise<string | null> {
  try {
    return await readAll(file, table, options);
  } catch (error) {
    throw explained(error);
  }
}

async function readAll(file: Blob, table: Table, options: ParquetOptions): Promise<string | null> {
  const metadata = await readMetadata(file);
  const elements = parquetSchema(metadata).children.map(({ element }) => element);
  const numeric = elements
    .filter((element) => fits(element, NUMBERS) || table.isMetricName(element.name))
    .map(({ name }) => name);
  const names = elements.map(({ name }) => name);
  const ours = new Set(findColumns(names, table, numeric));
  for (const name of ours)
    check(
      elements.find((element) => element.name === name)!,
      table,
    );
  const rows = Number(metadata.num_rows);
  if (rows > MAX_ROWS) {
    throw new LoadError(`${count(rows)} rows do not fit into a browser, at most ${count(MAX_ROWS)} do`);
  }
  const pieces = metadata.row_groups.flatMap((group) => {
    const found = piecesOf(group, ours);
    if (found.length !== ours.size)
      throw new LoadError("the Parquet file is damaged: a column is missing in a part of it");
    return found;
  });
  const read = (piece: Piece | undefined) => piece && bytesOf(file, piece);
  let bytes = 0;
  let next = read(pieces[0]);
  for (const [i, piece] of pieces.entries()) {
    const data = (await next)!;
    next = read(pieces[i + 1]); // comes from disk while this one is decoded
    next?.catch(() => undefined);
    await options.between?.();
    await decode(data, table, piece, metadata);
    bytes += data.byteLength;
    options.onProgress?.(Math.min(bytes, file.size));
  }
  table.checkLengths();
  if (table.rows !== rows) {
    throw new LoadError(`the file says ${count(rows)} rows and holds ${count(table.rows)}: it is damaged`);
  }
  return metadata.key_value_metadata?.find(({ key }) => key === "mask_impact")?.value ?? null;
}

/** The list of contents at the end of the file. */
async function readMetadata(file: Blob): Promise<FileMetaData> {
  const end = new DataView(await file.slice(-8).arrayBuffer());
  if (file.size < 12 || end.getUint32(4, true) !== 0x31524150) {
    // "PAR1"
    throw new LoadError("the Parquet file is cut off: its end, with the list of its contents, is missing");
  }
  if (end.getUint32(0, true) > file.size - 12) {
    throw new LoadError("the Parquet file is damaged: the list of its contents is longer than the file");
  }
  const buffer: AsyncBuffer = {
    byteLength: file.size,
    slice: (start, stop) => file.slice(start, stop).arrayBuffer(),
  };
  return parquetMetadataAsync(buffer, { geoparquet: false });
}

// --- what a column holds ----------------------------------------------------------------------------------
const NUMBERS = ["FLOAT", "DOUBLE", "INT32", "INT64"];
/** Whole numbers with a gap somewhere are stored as doubles by pandas. */
const TYPES = { integer: ["INT32", "INT64", "DOUBLE"], number: NUMBERS, text: ["BYTE_ARRAY"] };
const HOLDS = { integer: "whole numbers", number: "numbers", text: "texts" };
const OTHERS = /^(DECIMAL|DATE|JSON|BSON|TIME.*|INTERVAL)$/;

const isOther = ({ converted_type: converted, logical_type: logical }: SchemaElement) =>
  OTHERS.test(converted ?? "") || OTHERS.test(logical?.type ?? "");

const fits = (element: SchemaElement, types: string[]) =>
  !!element.type && types.includes(element.type) && !isOther(element) && element.repetition_type !== "REPEATED";

function check(element: SchemaElement, table: Table): void {
  const { name, type, converted_type: converted } = element;
  const kind = table.kindOf(name);
  if (fits(element, TYPES[kind])) return;
  const found = converted ?? type ?? "a group of columns";
  throw new LoadError(`the column ${name} is of type ${found}, which holds no ${HOLDS[kind]}`);
}

// --- one column of one row group --------------------------------------------------------------------------
interface Piece {
  name: ColumnName;
  group: RowGroup;
  start: number;
  end: number;
}

function piecesOf(group: RowGroup, ours: Set<ColumnName>): Piece[] {
  return group.columns.flatMap(({ meta_data: about }) => {
    if (!about || about.path_in_schema.length > 1 || !ours.has(about.path_in_schema[0])) return [];
    const start = Number(about.dictionary_page_offset || about.data_page_offset);
    return [{ name: about.path_in_schema[0], group, start, end: start + Number(about.total_compressed_size) }];
  });
}

async function bytesOf(file: Blob, { start, end }: Piece): Promise<ArrayBuffer> {
  if (!(start >= 4 && start <= end && end <= file.size)) {
    throw new LoadError("the Parquet file is damaged: a column lies outside of it");
  }
  return file.slice(start, end).arrayBuffer();
}

async function decode(
  data: ArrayBuffer,
  table: Table,
  { name, group, start, end }: Piece,
  whole: FileMetaData,
): Promise<void> {
  const metadata = { ...whole, row_groups: [group] };
  const compressors = checkedPages(data, name, metadata);
  const bytes = (from: number, to = end) => {
    if (from < start || to > end)
      throw new LoadError("the Parquet file is damaged: a column lies outside of its place");
    return from === start && to === end ? data : data.slice(from - start, to - start);
  };
  const column = table.columns[name];
  const before = column.length;
  const convert = converter(table, name);
  const found: DecodedArray[] = [];
  await parquetRead({
    file: { byteLength: end, slice: bytes },
    metadata,
    columns: [name],
    compressors,
    parsers: { stringFromBytes: (text) => table.texts.add(text, 0, text.length) },
    onChunk: ({ columnData }) => void found.push(columnData),
  });
  const kind = table.kindOf(name);
  for (const chunk of found) {
    const values = withoutBigInts(chunk);
    if (kind === "number" && values instanceof Float32Array) table.appendNumbers(values, name);
    else if (kind === "integer" && values instanceof Int32Array && values.every((value) => value >= 0))
      column.append(values);
    else for (let i = 0; i < values.length; i++) column.push(convert(values[i]));
  }
  const got = column.length - before,
    wanted = Number(group.num_rows);
  if (got !== wanted)
    throw new LoadError(`the Parquet file is damaged: ${name} has ${count(got)} of ${count(wanted)} values`);
}

/** 64-bit numbers as 32-bit ones, if all fit into 31 bits: a BigInt for each takes longer than everything else. */
function withoutBigInts(values: DecodedArray): DecodedArray {
  if (!(values instanceof BigInt64Array)) return values;
  const words = new Int32Array(values.buffer, values.byteOffset, 2 * values.length); // little-endian: low, high
  const small = new Int32Array(values.length);
  for (let i = 0; i < small.length; i++) {
    if (words[2 * i + 1] !== 0 || words[2 * i] < 0) return values;
    small[i] = words[2 * i];
  }
  return small;
}

/** A decoded value as what the table holds; texts are numbers already, a value that is not there is null. */
function converter(table: Table, name: ColumnName): (value: unknown) => number {
  const where = () => `row ${count(table.columns[name].length + 1)}`;
  const there = (value: unknown) => {
    if (value === undefined) throw new LoadError("the Parquet file is damaged: an entry is not in its dictionary");
    return value;
  };
  switch (table.kindOf(name)) {
    case "integer":
      return (value) => {
        const number = typeof value === "bigint" ? Number(value) : value;
        const small = typeof number === "number" && number >= 0 && number === (number | 0);
        return small ? number : table.wholeOf(there(value), name, where);
      };
    case "number":
      return (value) => (there(value) === null ? NaN : table.numberOf(Number(value), name));
    case "text":
      return (value) => {
        if (typeof value === "number") return value;
        if (there(value) === null && !needed(name)) {
          table.noText = true;
          return table.texts.add(new Uint8Array(0), 0, 0);
        }
        throw malformed(String(value), name, where(), "text");
      };
  }
}

/** What hyparquet and the browser say of a damaged file, in words for its reader. Ours stay as they are. */
function explained(error: unknown): Error {
  if (error instanceof LoadError || (error instanceof DOMException && error.name === "AbortError")) return error;
  const reason = error instanceof Error ? error.message : String(error);
  const packing = /compression codec: (\w+)/.exec(reason)?.[1];
  if (packing)
    return new LoadError(
      `the Parquet file is packed with ${packing}; save it anew with snappy, zstd or no compression: df.to_parquet(path, compression="snappy")`,
    );
  return new LoadError("the Parquet file is damaged: it cannot be decoded; copy it again, or write it anew");
}
