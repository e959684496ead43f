/**
 * The one data contract of the viewer: what the data layer hands over and every view reads.
 *
 * A run is a dense cube per metric, `value = array[index(run, step, variant, layer, token)]`, NaN where the file has
 * no value. Steps, variants, layers and tokens are addressed by their place in the lists of the run, not by their
 * number: layer 20 of a run with layers [0, 20] has index 1.
 */

/** What was measured: one number for each step, variant, layer and token. */
export interface Metric {
  /** By which it is found in `values`, and in the address of the page: "l2". */
  name: string;
  /** Its column in the table; "" if it was computed here from others. */
  column: string;
  title: string;
  /** In words; "" for a number without a unit. */
  unit: string;
  /** Smallest and largest value there can be; null: no limit, or not known. */
  range: (number | null)[];
}

/** By the name of the metric. */
export type Values = Record<string, Float32Array>;

export type Format = "csv" | "json" | "parquet" | "html" | "image";
export type TokenKind = "text" | "special" | "image";

/** left, top, right, bottom in pixels of the picture. */
export type Box = [number, number, number, number];

export interface TokenInfo {
  position: number;
  text: string;
  /** "text" unless a manifest says otherwise. The fields below are null without a manifest, too. */
  kind: TokenKind;
  id: number | null;
  /** Which picture, and the place in its grid. */
  image: number | null;
  row: number | null;
  col: number | null;
  box: Box | null;
  /** Of a unit, which was masked as a whole: the positions of its tokens. `position` is the first, `text` the unit's name. */
  members?: number[];
}

export interface Source {
  fileName: string;
  format: Format;
  /** Size of the file as it was given, packed if it was packed. */
  bytes: number;
}

export interface Picture {
  fileName: string;
  blob: Blob;
}

export interface Run {
  /** Unique in this page; given by the loader ("run-1", ...). */
  id: string;
  /** NAME of NAME_results.csv. */
  name: string;
  /** What the file has, in rising order. */
  steps: number[];
  layers: number[];
  /** "Full", "Attn", "Head_0", "Head_1", ... in this order; other names after them. */
  variants: string[];
  /** The tokens that were masked, by position. With mask mode "vision" that is not the whole prompt. */
  tokens: TokenInfo[];
  metrics: Metric[];
  values: Values;
  /** All query positions, where others than the predicting ones were measured. `steps` and `values` are then of one query
   * for each step (queries.ts). */
  queries: Queries | null;
  /** Rows in the file, duplicates included. */
  rows: number;
  /** Rows that gave a cell a second value; the last one counts. */
  duplicates: number;
  manifest: Manifest | null;
  /** What masks do to the answer, where NAME_effects is there. */
  effects: Effects | null;
  /** What the answer needs of the features added between decoder layers, where NAME_deepstack is there. */
  deepstack?: Effects | null;
  /** One place for each of manifest.images; null where the picture is not there (yet). */
  pictures: (Picture | null)[];
  /** What a reader has to know about the file, as sentences: gaps, duplicates, two texts at one position. */
  notes: string[];
  source: Source;
}

/** What every position reads: as in a Run, with a query position in the place of a step. */
export interface Queries {
  /** By step, then by position; a position before the prompt's last belongs to step 0. */
  positions: number[];
  steps: number[];
  /** [((query * variants + variant) * layers + layer) * tokens + token] */
  values: Values;
}

/** NAME_effects: what masking a unit over a range of layers does to the answer. */
export interface Effects {
  /** NAME, by which it finds its run. */
  name: string;
  fileName: string;
  steps: number[];
  /** Who stops reading. "last": only the predicting position; "all": every later one; else a set of positions. */
  blocks: string[];
  /** The layers a mask held in: "2-5"; and the head, if it was one: "3-3.5". Of injections, which: "0+2 removed". */
  windows: string[];
  /** Of NAME_deepstack, for each of `windows`; null: a table of masks. */
  injections: Injection[] | null;
  /** By position. `key` is the position and the label. From coarse to fine: `level` 0 is the coarsest, and what was `split` has
   * its parts in the table, too. A route is a unit of its own kind. */
  units: { key: string; label: string; position: number; level: number; split: boolean; route?: Route }[];
  /** "step,block,window,key" -> row of the file. */
  rows: Map<string, number>;
  /** The columns of numbers that the file has, by row; NaN where there is none. */
  numbers: Partial<Record<string, ArrayLike<number>>>;
  /** The likeliest token under the mask, by row. */
  top: string[];
  notes: string[];
}

/** All that the readers read of the source is taken away. */
export interface Route {
  /** What the table calls the readers. */
  block: string;
  source: Side;
  readers: Side;
}

/** A set of positions by its name; of one that is another at every step, such as "last", there are none. */
export interface Side {
  name: string;
  positions: number[];
}

/** Features that are added between decoder layers, or several of them together. */
export interface Injection {
  window: string;
  /** "0+2" */
  injection: string;
  /** Layers of the vision tower, and the decoder layers after which they are added: "5+17". */
  vision: string;
  decoder: string;
  /** "removed": these; "alone": all others. */
  action: string;
}

/** NAME_neighbors: for every image token and layer the text tokens nearest to it. */
export interface Neighbors {
  /** "demo_neighbors" of demo_neighbors.csv: by it the manifest is found. */
  name: string;
  source: Source;
  /** Layers of the image tokens, and of the bank, rising. */
  layers: number[];
  bankLayers: number[];
  /** The image tokens, by position. */
  tokens: TokenInfo[];
  /** Boxes of tokens are in pixels of the picture, as the manifest tells; else patches are squares in a grid or in lines. */
  boxed: boolean;
  /** What was searched: "merged" (all bank layers together), "1", "2", ... (one bank layer), "static" (the vocabulary). */
  groups: string[];
  /** Rows of a group, layer and token, by rank: rows[starts[cell] .. starts[cell + 1]], cell = (group * layers + layer) * tokens + token. */
  starts: Int32Array;
  rows: Int32Array;
  /** Of each row of the file. */
  rank: Int32Array;
  similarity: Float32Array;
  bankLayer: Float32Array;
  captionPosition: Float32Array;
  /** Places in `texts`; a static row has an empty caption. */
  token: Int32Array;
  caption: Int32Array;
  texts: string[];
  /** [layer * tokens + token]: what masking the token changes in that layer; null without a masking run. */
  impact: Float32Array | null;
  manifest: Manifest | null;
  pictures: (Picture | null)[];
  notes: string[];
}

/** What the index of a folder shows of a run; commands/index.py makes it. Every key may be missing. */
export interface IndexRow {
  name?: string;
  /** NAME_results.html, where there is one. */
  report?: string;
  prompt?: string;
  answer?: string;
  probability?: number;
  model?: string;
  metric?: string;
  top?: { text?: string; layer?: number; value?: number };
  /** What costs the answer most; without a text, nothing changes its probability by `least`. Missing: not measured. */
  effect?: { text?: string; before?: number; after?: number; then?: string; least?: number };
  /** Largest value of each layer, for the first output token. */
  by_layer?: number[];
  units?: { name?: string; read?: number; effect?: number }[];
}

export interface RunIndex {
  name: string;
  rows: IndexRow[];
  /** The page lies beside the reports, so that a link opens one. */
  inPlace: boolean;
}

/** What one file turned out to be. */
export type Loaded =
  | { kind: "run"; run: Run }
  | { kind: "effects"; effects: Effects }
  | { kind: "neighbors"; neighbors: Neighbors }
  | { kind: "index"; index: RunIndex }
  | { kind: "manifest"; manifest: Manifest; source: Source }
  | { kind: "image"; picture: Picture; source: Source };

type Shaped = Pick<Run, "variants" | "layers" | "tokens">;

/** Place of a value in an array of `run.values`. All four are indices into the lists of the run. */
export function index(run: Shaped, step: number, variant: number, layer: number, token: number): number {
  return ((step * run.variants.length + variant) * run.layers.length + layer) * run.tokens.length + token;
}

export function at(run: Run, metric: string, step: number, variant: number, layer: number, token: number): number {
  return run.values[metric]?.[index(run, step, variant, layer, token)] ?? NaN;
}

/** `length` values from `start` on, as a view into the cube: no copy. NaN for a metric that the run does not have. */
export function part(run: Run, metric: string, start: number, length: number): Float32Array {
  return run.values[metric]?.subarray(start, start + length) ?? new Float32Array(length).fill(NaN);
}

/** All tokens of one layer, as `part`. */
export function row(run: Run, metric: string, step: number, variant: number, layer: number): Float32Array {
  return part(run, metric, index(run, step, variant, layer, 0), run.tokens.length);
}

/** values[layer][variant][metric] */
export interface NoiseFloors {
  layers?: number[];
  variants?: string[];
  metrics?: string[];
  values?: (number | null)[][][];
}

/**
 * What the page uses of NAME_run.json, docs/output-format.md. Every key may be missing (undefined) or null: older and
 * newer versions, other tools. `cleanManifest` in manifest.ts checks the types, so what is there has the type given here.
 */
export interface Manifest {
  schema_version?: number;
  name?: string;
  /** The command's flags; and the configuration that a batch was made from. */
  argv?: string[];
  config?: string;
  model?: ManifestModel;
  /** Position of the first token of the output. */
  prompt_length?: number;
  /** Of an encoder-decoder. */
  decoder_start?: number;
  tokens?: ManifestToken[];
  images?: ManifestImage[];
  generated?: GeneratedToken[];
  head_space?: string;
  mask_mode?: string;
  /** "vision": patches read patches; the positions are those of their image tokens. */
  tower?: string;
  /** Of a vision tower. No `readers`: some image tokens were chosen, and are a list in the file. */
  vision?: { readers?: string };
  vision_attention?: string;
  /** How far replays are from the model, by kind of variant and metric; and the noise floors. */
  noise_floor?: { Full?: Record<string, number>; Head?: Record<string, number>; by_layer?: NoiseFloors };
  metrics?: Partial<Metric>[];
  /** Of the updates without any mask; values[step][layer][variant]. */
  unmasked_length?: { layers?: number[]; variants?: string[]; values?: (number | null)[][][] };
  /** Where the ranked values stand among those of other prompts; null without. */
  null?: { runs?: number; percentiles?: { position?: number; value?: number; percentile?: number }[] };
  /** Tokens with much of the attention and short values; null where weights were not measured. */
  sinks?: { position?: number; weight?: number; value_length?: number }[];
  skipped_layers?: { layer?: number; reason?: string }[];
  notes?: string[];
  rows?: number;
  files?: string[];
  /** What was masked together, where that is not single tokens. */
  units?: { label?: string; positions?: number[] }[];
  effects?: {
    contrast?: string[];
    noise?: { logit?: number };
    /** Who stops reading what; no source: every unit. */
    routes?: { block?: string; source?: Partial<Side>; readers?: Partial<Side> }[];
    /** From coarse to fine: every unit of every level; `parent` is the place in this list of the unit that was split. */
    refine?: { units?: { label?: string; positions?: number[]; parent?: number }[] };
  };
  /** Of NAME_neighbors. */
  tables?: string[];
  prompt?: string;
  /** The prompt is in a chat template; the texts of its messages, where several were given. */
  chat?: boolean;
  messages?: string[];
  bank?: { folder?: string; rows?: number; captions?: { file?: string; count?: number } };
  search?: string;
  masking?: { run?: string; variant?: string };
}

export interface ManifestModel {
  name?: string;
  path_or_id?: string;
  family?: string;
}

export interface ManifestToken {
  position?: number;
  id?: number;
  text?: string;
  kind?: string;
  image?: number;
  row?: number;
  col?: number;
  box?: number[];
}

export interface ManifestImage {
  path?: string;
  sha256?: string;
  notes?: string[];
  size?: number[];
  grid?: number[];
  layout?: string;
  tokens?: number;
  /** Of a frame: which video it is of. */
  video?: number;
  positions?: number[];
}

export interface GeneratedToken {
  step?: number;
  id?: number;
  text?: string;
  probability?: number;
}
