/** One file -> a run, a manifest or a picture. The same in a worker, on the page and in Node. */

import { all, chunks, unpacked, type ReadOptions } from "./bytes.ts";
import { CsvParser } from "./csv.ts";
import { makeCube } from "./cube.ts";
import { detect, type Content } from "./detect.ts";
import { decodeEmbedded, findEmbedded } from "./embed.ts";
import { looksLikeEffects, makeEffects } from "./effects.ts";
import { LoadError, NotResults } from "./errors.ts";
import { JsonParser } from "./json.ts";
import { looksLikeBatch, readIndex } from "./index-rows.ts";
import { looksLikeManifest, parseManifest, withManifest } from "./manifest.ts";
import { looksLikeNeighbors, makeNeighbors } from "./neighbors.ts";
import { readParquet } from "./parquet.ts";
import { Table } from "./table.ts";
import type { Format, Loaded, Run, Source } from "./types.ts";

const MB = 2 ** 20;
/** V8 holds 512 MB of text; half of it leaves room for what is made of it. */
const TEXT_LIMIT = 256 * MB;
const PARQUET_GZ_LIMIT = 1024 * MB;

export interface LoadOptions extends ReadOptions {
  /** For a Blob, which has no name of its own. */
  fileName?: string;
}

/** Throws LoadError with a sentence that begins with the file's name, or an AbortError. */
export async function load(file: Blob, options: LoadOptions = {}): Promise<Loaded> {
  const fileName = options.fileName ?? (file as File).name ?? "file";
  try {
    return await loaded(file, fileName, options);
  } catch (error) {
    options.signal?.throwIfAborted();
    if (error instanceof LoadError) throw new LoadError(`${fileName}: ${error.message}`);
    if (error instanceof RangeError) throw new LoadError(`${fileName}: there is not enough memory for this file`);
    if (error instanceof DOMException)
      throw new LoadError(`${fileName}: the file could not be read (${error.message})`);
    throw error;
  }
}

async function loaded(file: Blob, fileName: string, options: LoadOptions): Promise<Loaded> {
  let content = detect(await head(file));
  const packed = content === "gzip";
  if (packed) content = await packedContent(file);
  const stream = () => (packed ? unpacked(file, options) : chunks(file, options));
  const source = (format: Format): Source => ({ fileName, format, bytes: file.size });
  switch (content) {
    case "empty":
      throw new LoadError("the file is empty");
    case "gzip":
      throw new LoadError("the file is packed twice");
    case "image":
      return { kind: "image", picture: { fileName, blob: file }, source: source("image") };
    case "html":
      return htmlReport(await text(stream()), source("html"));
    case "parquet":
      return parquetRun(
        packed ? await all(stream(), PARQUET_GZ_LIMIT, "a packed Parquet file") : file,
        source("parquet"),
        options,
      );
    case "csv":
    case "json":
      return textTable(stream, source(content));
  }
}

async function head(file: Blob): Promise<Uint8Array> {
  return new Uint8Array(await file.slice(0, 4096).arrayBuffer());
}

async function packedContent(file: Blob): Promise<Content> {
  for await (const chunk of unpacked(file)) return detect(chunk);
  return "empty";
}

async function textTable(stream: () => AsyncIterable<Uint8Array>, source: Source): Promise<Loaded> {
  const read = async (table: Table) => {
    const parser = source.format === "csv" ? new CsvParser(table) : new JsonParser(table);
    for await (const chunk of stream()) parser.feed(chunk);
    parser.end();
    return parser.notes;
  };
  const table = new Table();
  try {
    return { kind: "run", run: runOf(table, source, await read(table)) };
  } catch (error) {
    const other = otherTable(error);
    if (other) {
      const notes = await read(other);
      return otherOf(other, source, notes);
    }
    if (error instanceof NotResults && source.format === "json" && looksLikeBatch(error.found)) {
      const batch: unknown = JSON.parse(await text(stream()));
      return { kind: "index", index: readIndex(batch, source.fileName.replace(/_batch\.json.*$/i, ""), false) };
    }
    if (!(error instanceof NotResults && source.format === "json" && looksLikeManifest(error.found))) throw error;
    return { kind: "manifest", manifest: parseManifest(await text(stream())), source };
  }
}

async function parquetRun(file: Blob, source: Source, options: LoadOptions): Promise<Loaded> {
  const table = new Table();
  const between = async () => {
    options.signal?.throwIfAborted();
    await options.pause?.();
  };
  const read = (table: Table) => readParquet(file, table, { onProgress: options.onProgress, between });
  let text: string | null;
  try {
    text = await read(table);
  } catch (error) {
    const other = otherTable(error);
    if (!other) throw error;
    const text = await read(other);
    return otherOf(other, source, [], text);
  }
  const run = runOf(table, source, []);
  if (text === null) return { kind: "run", run };
  try {
    return { kind: "run", run: withManifest(run, parseManifest(text)) };
  } catch {
    return {
      kind: "run",
      run: { ...run, notes: [...run.notes, "The manifest inside of the Parquet file cannot be read."] },
    };
  }
}

/** A table for a file that holds no results but what belongs to them; null: it is something else. */
function otherTable(error: unknown): Table | null {
  return looksLikeEffects(error) ? new Table("effects") : looksLikeNeighbors(error) ? new Table("neighbors") : null;
}

function otherOf(table: Table, source: Source, notes: string[], manifest: string | null = null): Loaded {
  const name = runName(source.fileName);
  if (table.of === "effects") return { kind: "effects", effects: makeEffects(table, name, source.fileName, notes) };
  const neighbors = makeNeighbors(table, name, source, notes);
  return {
    kind: "neighbors",
    neighbors: manifest === null ? neighbors : { ...neighbors, manifest: parseManifest(manifest) },
  };
}

function runOf(table: Table, source: Source, notes: string[]): Run {
  const cube = makeCube(table);
  return {
    id: "", // the page gives it
    name: runName(source.fileName),
    ...cube,
    notes: [...notes, ...cube.notes],
    rows: table.rows,
    manifest: null,
    effects: null,
    deepstack: null,
    pictures: [],
    source,
  };
}

async function htmlReport(html: string, source: Source): Promise<Loaded> {
  const data = findEmbedded(html);
  if (!data) throw new LoadError("this page has no results inside");
  const found = await decodeEmbedded(data);
  if (found.kind === "run") return { kind: "run", run: { ...found.run, source } };
  if (found.kind === "index") return { kind: "index", index: { ...found.index, inPlace: false } };
  return found.kind === "neighbors" ? { kind: "neighbors", neighbors: { ...found.neighbors, source } } : found;
}

async function text(stream: AsyncIterable<Uint8Array>): Promise<string> {
  return (await all(stream, TEXT_LIMIT, "a file of this kind")).text();
}

/** "demo" of demo_results.csv, demo_results (1).json.gz, demo_run.json. */
export function runName(fileName: string): string {
  const stem = fileName
    .replace(/^.*[/\\]/, "")
    .replace(/\.gz$/i, "")
    .replace(/\.(csv|tsv|txt|json|jsonl|ndjson|parquet|html?)$/i, "");
  return stem.replace(/ ?\(\d+\)$/, "").replace(/_(results|run|effects|deepstack)$/, "") || fileName;
}
