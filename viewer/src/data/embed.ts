/**
 * A run inside the page: NAME_results.html is this page with its data element filled by the Python side.
 *
 *   <script type="text/plain" id="mask-impact-data">{...}</script>
 *
 * One JSON object, in which every "<" is written \u003c: a token "</script>" would otherwise end the element. Keys:
 *
 *   format     2
 *   name       NAME of the run
 *   rows       rows in the table
 *   steps      [S] generation steps, rising          layers     [L] layers, rising
 *   variants   [V] "Full", "Attn", "Head_0", ...     positions  [T] positions of the masked tokens, rising
 *   tokens     [T] their texts
 *   queries    optional: [S] query positions, one for each entry of `steps`, which then may repeat: by step, then by position
 *   metrics    one {"name", "column", "title", "unit", "range"} for each metric, as in the manifest
 *   values     [metrics] base64 of S*V*L*T little-endian float32, index ((step * V + variant) * L + layer) * T + token;
 *              NaN where the table has no row. In numpy: a C-ordered array of shape [S, V, L, T], dtype "<f4"
 *   manifest   the manifest, or null
 *   effects    optional: null, or {"columns": {name: [...]}} with the columns of NAME_effects.json, one list each, all of
 *              one length. Read as that file is: generation_step, token_masked, token_position, first_layer, last_layer,
 *              block, logprob, logprob_change, rank, top_token, kl, final_l2, final_cosine, and where they are there
 *              contrast, contrast_change, interaction (null in a row without one). Other keys and columns are left out
 *   images     one for each of manifest.images: {"name": "cat.png", "data": "data:image/jpeg;base64,..."} or null
 *
 * NAME_neighbors.html has instead of the numbers of a run:
 *
 *   format     1 or 2
 *   name       NAME_neighbors
 *   neighbors  base64 of the zlib stream of NAME_neighbors.json, the columns of the table as that file has them
 *   manifest, images   as above
 *
 * index.html of a folder of runs has `format` 2, `name` and
 *
 *   index      one row for each run, as types.ts has them (IndexRow)
 *
 * Format 1 had `l2` and `cosine`, base64 each, in the place of `metrics` and `values`; it is read, too.
 *
 * The built page has the element, empty. Python replaces exactly EMPTY_ELEMENT, once.
 */

import { LoadError } from "./errors.ts";
import { readEffects } from "./effects.ts";
import { cleanManifest, withManifest } from "./manifest.ts";
import { plainToken } from "./cube.ts";
import { readIndex } from "./index-rows.ts";
import { readNeighbors } from "./neighbors.ts";
import { lastOfSteps } from "./queries.ts";
import { metricOf } from "./metrics.ts";
import type { Loaded, Metric, Picture, Run, Source } from "./types.ts";

export const ELEMENT_ID = "mask-impact-data";
export const EMPTY_ELEMENT = `<script type="text/plain" id="${ELEMENT_ID}"></script>`;
const FORMATS = [1, 2];

interface Embedded {
  format: number;
  name: string;
  rows: number;
  steps: number[];
  layers: number[];
  variants: string[];
  positions: number[];
  tokens: string[];
  /** Of format 1, in the place of `metrics` and `values`. */
  l2?: string;
  cosine?: string;
  metrics: Metric[];
  values: string[];
  manifest: unknown;
  effects?: { columns: object } | null;
  deepstack?: { columns: object } | null;
  images: ({ name: string; data: string } | null)[];
  queries?: number[];
}

/** The text of the data element in the source of a page; null if it is not there or empty. */
export function findEmbedded(html: string): string | null {
  const open = html.search(new RegExp(`<script[^>]*\\bid="${ELEMENT_ID}"[^>]*>`));
  if (open < 0) return null;
  const start = html.indexOf(">", open) + 1;
  const end = html.indexOf("</script>", start);
  return (end < 0 ? "" : html.slice(start, end).trim()) || null;
}

/** What is in a page: a run, neighbours, or an index of runs. Throws LoadError. */
export async function decodeEmbedded(text: string): Promise<Loaded> {
  const data = json(text);
  if (data.index) return { kind: "index", index: readIndex(data, String(data.name), true) };
  if (typeof data.neighbors !== "string") return { kind: "run", run: decodeRun(text, data) };
  const name = String(data.name),
    source: Source = { fileName: `${name}.html`, format: "html", bytes: text.length };
  const unpacked = new Response(
    new Blob([fromBase64(data.neighbors)]).stream().pipeThrough(new DecompressionStream("deflate")),
  );
  const columns = await unpacked.arrayBuffer().catch(() => {
    throw new LoadError("the data in the page is damaged: it cannot be unpacked");
  });
  const neighbors = readNeighbors(new Uint8Array(columns), name, source);
  return {
    kind: "neighbors",
    neighbors: {
      ...neighbors,
      manifest: cleanManifest(data.manifest) ?? null,
      pictures: (data.images ?? []).map(picture),
    },
  };
}

/** Throws LoadError if the text is damaged: nothing is shown rather than something wrong. */
export function decodeRun(text: string, parsed = json(text)): Run {
  const data = whole(parsed);
  const { name, steps, layers, variants, positions, tokens } = data;
  const cells = steps.length * layers.length * variants.length * positions.length;
  const manifest = data.manifest ? cleanManifest(data.manifest) : undefined;
  const run: Run = {
    id: "",
    name,
    steps,
    layers,
    variants,
    tokens: positions.map((position, i) => plainToken(position, tokens[i])),
    metrics: data.metrics,
    values: Object.fromEntries(data.metrics.map(({ name }, i) => [name, floats(data.values[i], cells, name)])),
    queries: null,
    rows: data.rows,
    duplicates: 0,
    manifest: null,
    effects: side(data.effects, name),
    deepstack: side(data.deepstack, name),
    pictures: data.images.map(picture),
    notes: [],
    source: { fileName: `${name}_results.html`, format: "html", bytes: text.length },
  };
  const asked = data.queries ? lastOfSteps(run, data.queries, steps) : run;
  return manifest ? withManifest(asked, manifest) : asked;
}

/** A table beside the results. */
const side = (table: Embedded["effects"], name: string) =>
  table ? readEffects(JSON.stringify(table.columns ?? {}), name) : null;

function json(text: string): Partial<Embedded> & { neighbors?: string; index?: unknown } {
  let data: Partial<Embedded>;
  try {
    data = JSON.parse(text) as Partial<Embedded>;
  } catch {
    throw new LoadError("the data in the page is cut off or no valid JSON");
  }
  if (!FORMATS.includes(data?.format ?? 0)) {
    throw new LoadError(`the data in the page has format ${String(data?.format)}, and this page reads formats 1 and 2`);
  }
  return data.format === 1 ? { ...data, ...ofFormat1(data) } : data;
}

function ofFormat1({ l2, cosine }: Partial<Embedded>): Pick<Embedded, "metrics" | "values"> {
  return { metrics: ["l2_distance", "cosine_distance"].map(metricOf), values: [l2, cosine] as string[] };
}

/** Checked as those of a manifest are; what is left out is filled in, as for a column of a table. */
const titled = (metrics: Metric[]): Metric[] =>
  cleanManifest({ metrics })!.metrics!.map((metric) => ({ ...metricOf(metric.column ?? metric.name!), ...metric }));

const isList = (value: unknown): value is unknown[] => Array.isArray(value);

function whole(data: Partial<Embedded>): Embedded {
  const { steps, layers, variants, positions, tokens, name, rows, metrics = [], values, queries, images = [] } = data;
  const counts = (list: unknown, least = 0): list is number[] =>
    Array.isArray(list) && list.length > 0 && list.every((n) => Number.isInteger(n) && n >= least);
  const rising = (list: unknown, least = 0) => counts(list, least) && list.every((n, i) => i === 0 || n > list[i - 1]);
  const strings = (list: unknown) =>
    Array.isArray(list) && list.length > 0 && list.every((each) => typeof each === "string");
  const fit =
    (queries === undefined ? rising(steps) : counts(steps) && counts(queries) && queries.length === steps.length) &&
    rising(layers) &&
    rising(positions, -1) && // -1: what is no token of the prompt, as a CLS token of a vision tower
    strings(variants) &&
    strings(tokens) &&
    tokens!.length === positions!.length &&
    new Set(variants).size === variants!.length &&
    typeof name === "string" &&
    Number.isInteger(rows) &&
    isList(metrics) &&
    strings(metrics.map((metric) => metric?.name || null)) &&
    new Set(metrics.map(({ name }) => name)).size === metrics.length &&
    strings(values) &&
    values!.length === metrics.length &&
    isList(images);
  if (!fit) throw new LoadError("the data in the page is damaged: its lists do not fit together");
  return { ...data, images, metrics: titled(metrics) } as Embedded;
}

function floats(base64: string, cells: number, what: string): Float32Array {
  const bytes = fromBase64(base64);
  if (bytes.length !== cells * 4) {
    throw new LoadError(`the data in the page is damaged: ${what} has ${bytes.length} of ${cells * 4} bytes`);
  }
  return new Float32Array(bytes.buffer, bytes.byteOffset, cells);
}

function picture(image: { name: string; data: string } | null): Picture | null {
  const [, type, data] = /^data:(image\/[\w.+-]+);base64,(.*)$/s.exec(image?.data ?? "") ?? [];
  return image && type ? { fileName: String(image.name), blob: new Blob([fromBase64(data)], { type }) } : null;
}

/** Newer browsers have Uint8Array.fromBase64; atob makes a string of the bytes first. */
function fromBase64(base64: string): Uint8Array<ArrayBuffer> {
  const native = (Uint8Array as unknown as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> }).fromBase64;
  try {
    if (native) return native(base64);
    const binary = atob(base64);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  } catch {
    throw new LoadError("the data in the page is damaged: it is no valid base64");
  }
}
