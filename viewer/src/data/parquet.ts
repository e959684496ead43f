/**
 * Parquet -> Table, on parts of hyparquet.
 *
 * Only its inner modules are used: its front door (parquetRead) brings query planning, filters and remote reads, as
 * much code again, and hands out strings and bigints row by row. Here each dictionary entry becomes a number of the
 * table once (pages.ts), and a row costs one array access. One column of one row group at a time keeps memory small.
 */

import { count, LoadError } from "./errors.ts";
import { readPages } from "./pages.ts";
import { readMetadata, type Chunk, type Element } from "./parquet-headers.ts";
import { findColumns, KINDS, MAX_ROWS, type ColumnName, type Table } from "./table.ts";

export interface ParquetOptions {
  onProgress?: (bytes: number) => void;
  /** Called between columns; may throw to abort, may wait to let a page breathe. */
  between?: () => Promise<void>;
}

/** Fills the table. Returns the text of the manifest in the file's metadata, if there is one. */
export function readParquet(file: Blob, table: Table, options: ParquetOptions = {}): Promise<string | null> {
  return damaged(() => readAll(file, table, options));
}

async function readAll(file: Blob, table: Table, options: ParquetOptions): Promise<string | null> {
  const { rows, elements, chunks, texts } = await readMetadata(file);
  const ours = findColumns(
    elements.map(({ name }) => name),
    table,
  ).map((name) => checked(name, elements));
  if (rows > MAX_ROWS) {
    throw new LoadError(`${count(rows)} rows do not fit into a browser, at most ${count(MAX_ROWS)} do`);
  }
  const pieces = chunks.flatMap((chunk) =>
    ours.filter(({ name }) => name === chunk.name).map((column) => ({ ...column, chunk })),
  );
  const read = (piece: Piece | undefined) => piece && readChunk(file, piece.chunk);
  let bytes = 0;
  let next = read(pieces[0]);
  for (const [i, piece] of pieces.entries()) {
    const data = (await next)!;
    next = read(pieces[i + 1]); // comes from disk while this one is decoded
    next?.catch(() => undefined);
    await options.between?.();
    decode(data, table, piece);
    bytes += data.byteLength;
    options.onProgress?.(Math.min(bytes, file.size));
  }
  table.checkLengths();
  if (table.rows !== rows)
    throw new LoadError(`the file says ${count(rows)} rows and holds ${count(table.rows)}: it is damaged`);
  return texts.get("mask_impact") ?? null;
}

const TYPES = { integer: ["INT32", "INT64"], number: ["FLOAT", "DOUBLE", "INT32", "INT64"], text: ["BYTE_ARRAY"] };
const NAMES = { integer: "whole numbers", number: "numbers", text: "texts" };

interface Ours {
  name: ColumnName;
  optional: boolean;
}

/** One column of one row group. */
interface Piece extends Ours {
  chunk: Chunk;
}

function checked(name: ColumnName, elements: Element[]): Ours {
  const { type, converted, timestamp, repetition } = elements.find((element) => element.name === name)!;
  // Whole numbers with a gap somewhere are stored as doubles by pandas.
  const fits = KINDS[name] === "integer" ? [...TYPES.integer, "DOUBLE"] : TYPES[KINDS[name]];
  const scaled = timestamp || ["DECIMAL", "DATE", "JSON", "BSON"].includes(converted ?? "");
  if (!type || !fits.includes(type) || scaled || repetition === "REPEATED") {
    throw new LoadError(
      `the column ${name} is of type ${converted ?? type ?? "a group of columns"}, which holds no ${NAMES[KINDS[name]]}`,
    );
  }
  return { name, optional: repetition === "OPTIONAL" };
}

async function readChunk(file: Blob, { start, end }: Chunk): Promise<ArrayBuffer> {
  if (!(start >= 4 && end <= file.size))
    throw new LoadError("the Parquet file is damaged: a column lies outside of it");
  return file.slice(start, end).arrayBuffer();
}

function decode(data: ArrayBuffer, table: Table, { name, chunk, optional }: Piece): void {
  const before = table.columns[name].length;
  readPages(data, table, name, chunk, optional);
  const got = table.columns[name].length - before;
  if (got !== chunk.rows)
    throw new LoadError(`the Parquet file is damaged: ${name} has ${count(got)} of ${count(chunk.rows)} values`);
}

/** hyparquet's errors, RangeErrors of its DataViews included, in a sentence. Ours pass through. */
async function damaged<T>(read: () => T | Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof LoadError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    const packing = /compression codec: (\w+)/.exec(reason)?.[1];
    if (packing)
      throw new LoadError(`the Parquet file is packed with ${packing}; only snappy and no compression can be read`);
    throw new LoadError(`the Parquet file is damaged (${reason})`);
  }
}
