/**
 * Parquet -> Table, on parts of hyparquet.
 *
 * Only its inner modules are used: its front door (parquetRead) brings query planning, filters and remote reads, as
 * much code again, and hands out strings and bigints row by row. Here each dictionary entry becomes a number of the
 * table once (pages.ts), and a row costs one array access. One column of one row group at a time keeps memory small.
 */

import { parquetMetadataAsync, parquetSchema } from "hyparquet/src/metadata.js";
import type { ColumnMetaData, FileMetaData, SchemaTree } from "hyparquet/src/types.js";

import { count, LoadError } from "./errors.ts";
import { readPages } from "./pages.ts";
import { COLUMNS, findColumns, KINDS, MAX_ROWS, type ColumnName, type Table } from "./table.ts";

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
  const metadata = await readMetadata(file);
  const tree = parquetSchema(metadata);
  findColumns(tree.children.map((child) => String(child.element.name)));
  for (const name of COLUMNS) checkType(name, tree);
  if (Number(metadata.num_rows) > MAX_ROWS) {
    throw new LoadError(`${count(Number(metadata.num_rows))} rows do not fit into a browser, at most ${count(MAX_ROWS)} do`);
  }
  const pieces = chunksOf(metadata);
  const read = (piece: Piece | undefined) => piece && readChunk(file, piece);
  let bytes = 0;
  let next = read(pieces[0]);
  for (const [i, piece] of pieces.entries()) {
    const chunk = (await next)!;
    next = read(pieces[i + 1]); // comes from disk while this one is decoded
    next?.catch(() => undefined);
    await options.between?.();
    decode(chunk, table, piece, tree);
    bytes += chunk.byteLength;
    options.onProgress?.(Math.min(bytes, file.size));
  }
  table.checkLengths();
  if (table.rows !== Number(metadata.num_rows)) {
    throw new LoadError(`the file says ${count(Number(metadata.num_rows))} rows and holds ${count(table.rows)}: it is damaged`);
  }
  return metadata.key_value_metadata?.find(({ key }) => key === "mask_impact")?.value ?? null;
}

async function readMetadata(file: Blob): Promise<FileMetaData> {
  const end = new Uint8Array(await file.slice(-4).arrayBuffer());
  if (file.size < 12 || String.fromCharCode(...end) !== "PAR1") {
    throw new LoadError("the Parquet file is cut off: its end, with the list of its contents, is missing");
  }
  const source = { byteLength: file.size, slice: (from: number, to?: number) => file.slice(from, to).arrayBuffer() };
  return parquetMetadataAsync(source, { geoparquet: false });
}

const TYPES = { integer: ["INT32", "INT64"], number: ["FLOAT", "DOUBLE", "INT32", "INT64"], text: ["BYTE_ARRAY"] };
const NAMES = { integer: "whole numbers", number: "numbers", text: "texts" };

function checkType(name: ColumnName, tree: SchemaTree): void {
  const { element } = tree.children.find((child) => child.element.name === name)!;
  // Whole numbers with a gap somewhere are stored as doubles by pandas.
  const fits = KINDS[name] === "integer" ? [...TYPES.integer, "DOUBLE"] : TYPES[KINDS[name]];
  const scaled = ["DECIMAL", "DATE", "JSON", "BSON"].includes(element.converted_type ?? "") || element.logical_type?.type === "TIMESTAMP";
  if (!element.type || !fits.includes(element.type) || scaled || element.repetition_type === "REPEATED") {
    const type = element.converted_type ?? element.type ?? "a group of columns";
    throw new LoadError(`the column ${name} is of type ${type}, which holds no ${NAMES[KINDS[name]]}`);
  }
}

/** One column of one row group. */
interface Piece {
  name: ColumnName;
  column: ColumnMetaData;
  rows: number;
}

function chunksOf(metadata: FileMetaData): Piece[] {
  return metadata.row_groups.flatMap((group) =>
    group.columns.flatMap(({ meta_data: column }) => {
      const name = COLUMNS.find((each) => column?.path_in_schema.length === 1 && column.path_in_schema[0] === each);
      return column && name ? [{ name, column, rows: Number(group.num_rows) }] : [];
    }),
  );
}

async function readChunk(file: Blob, { column }: Piece): Promise<ArrayBuffer> {
  const start = Number(column.dictionary_page_offset ?? column.data_page_offset);
  const end = start + Number(column.total_compressed_size);
  if (!(start >= 4 && end <= file.size)) throw new LoadError("the Parquet file is damaged: a column lies outside of it");
  return file.slice(start, end).arrayBuffer();
}

function decode(chunk: ArrayBuffer, table: Table, { name, column, rows }: Piece, tree: SchemaTree): void {
  const before = table.columns[name].length;
  readPages(chunk, table, name, column, tree, rows);
  const got = table.columns[name].length - before;
  if (got !== rows) throw new LoadError(`the Parquet file is damaged: ${name} has ${count(got)} of ${count(rows)} values`);
}

/** hyparquet's errors, RangeErrors of its DataViews included, in a sentence. Ours pass through. */
async function damaged<T>(read: () => T | Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof LoadError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    const packing = /compression codec: (\w+)/.exec(reason)?.[1];
    if (packing) throw new LoadError(`the Parquet file is packed with ${packing}; only snappy and no compression can be read`);
    throw new LoadError(`the Parquet file is damaged (${reason})`);
  }
}
