/** What the tests share: fixtures, feeding bytes in pieces, and runs as plain rows. */

import { readFileSync } from "node:fs";
import { CsvParser } from "../src/data/csv.ts";
import { makeCube, type Cube } from "../src/data/cube.ts";
import { JsonParser } from "../src/data/json.ts";
import { load } from "../src/data/load.ts";
import { metricOf } from "../src/data/metrics.ts";
import { Table } from "../src/data/table.ts";
import { index, type Run } from "../src/data/types.ts";

/** step, layer, token, position, variant, l2, cosine */
export type Row = [number, number, string, number, string, number | null, number | null];

export const bytesOf = (text: string) => new TextEncoder().encode(text);

export function fixture(name: string): File {
  return new File([readFileSync(new URL(`fixtures/${name}`, import.meta.url))], name);
}

export function fixtureRows(name: "grid" | "hostile"): Row[] {
  return JSON.parse(readFileSync(new URL(`fixtures/${name}_rows.json`, import.meta.url), "utf8")) as Row[];
}

export async function runOf(file: File): Promise<Run> {
  const loaded = await load(file);
  if (loaded.kind !== "run") throw new Error(`${file.name} is a ${loaded.kind}`);
  return loaded.run;
}

export const textFile = (text: string | Uint8Array, name = "x_results.csv") => new File([text as BlobPart], name);

/** The sentence a file fails with. */
export async function failure(file: File): Promise<string> {
  try {
    await load(file);
  } catch (error) {
    if ((error as Error).name === "LoadError") return (error as Error).message;
    throw error;
  }
  throw new Error(`${file.name} was loaded`);
}

export function parserFor(bytes: Uint8Array, table: Table): CsvParser | JsonParser {
  const first = String.fromCharCode(...bytes.subarray(0, 8))
    .replace(/^\u00ef\u00bb\u00bf/, "")
    .trimStart()[0];
  return first === "{" || first === "[" ? new JsonParser(table) : new CsvParser(table);
}

/** Parses bytes cut at the given places. Each piece is a copy, so a parser cannot look beyond its end. */
export function parsed(bytes: Uint8Array, cuts: readonly number[] = []): { rows: Row[]; notes: string[] } {
  const { cube, notes } = cubeOf(bytes, cuts);
  return { rows: rowsOf(cube as unknown as Run), notes };
}

/** The same as a cube. */
export function cubeOf(bytes: Uint8Array, cuts: readonly number[] = []): { cube: Cube; notes: string[] } {
  const table = new Table();
  const parser = parserFor(bytes, table);
  let start = 0;
  for (const cut of [...cuts, bytes.length]) {
    parser.feed(bytes.slice(start, cut));
    start = cut;
  }
  parser.end();
  const cube = makeCube(table);
  return { cube, notes: [...parser.notes, ...cube.notes] };
}

/** Every cell that has a number, in the order of the fixtures: step, layer, token, variant. */
export function rowsOf(run: Run): Row[] {
  const rows: Row[] = [];
  run.steps.forEach((step, s) =>
    run.layers.forEach((layer, l) =>
      run.tokens.forEach(({ text, position }, t) =>
        run.variants.forEach((variant, v) => {
          const cell = index(run, s, v, l, t);
          const [l2, cosine] = [run.values.l2?.[cell] ?? NaN, run.values.cosine?.[cell] ?? NaN];
          if (l2 === l2 || cosine === cosine) rows.push([step, layer, text, position, variant, none(l2), none(cosine)]);
        }),
      ),
    ),
  );
  return rows;
}

const none = (value: number) => (value === value ? value : null);

/** A small generator, so that a failing case can be repeated: mulberry32. */
export function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export function randomCuts(next: () => number, length: number, n: number): number[] {
  return Array.from({ length: n }, () => Math.floor(next() * (length + 1))).sort((a, b) => a - b);
}

/** Of most files. */
export const METRICS = ["l2_distance", "cosine_distance"].map(metricOf);

export const KEYS = "generation_step,layer,token_masked,token_position,variant";
export const HEADER = `${KEYS},l2_distance,cosine_distance`;

/** As arrays stand in a page. */
export const base64 = (array: Float32Array) =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
