/** NAME_run.json -> Manifest: every key of the right type or left out, so that views need no checks of their own. */

import { LoadError } from "./errors.ts";
import { withRelative, withTitles } from "./metrics.ts";
import type { Manifest, Metric, Run, Side, TokenInfo } from "./types.ts";

type Check<T> = (value: unknown) => T | undefined;

export const text: Check<string> = (value) => (typeof value === "string" ? value : undefined);
export const number: Check<number> = (value) =>
  typeof value === "number" && Number.isFinite(value) ? value : undefined;

export const list =
  <T>(check: Check<T>): Check<T[]> =>
  (value) =>
    Array.isArray(value) ? value.map(check).filter((each) => each !== undefined) : undefined;

/** A list whose places mean something (position, picture number): what is wrong becomes an empty object. */
const places =
  <T extends object>(check: Check<T>): Check<T[]> =>
  (value) =>
    Array.isArray(value) ? value.map((each) => check(each) ?? ({} as T)) : undefined;

/** Numbers by their place; null where there is none. */
const numbers: Check<(number | null)[]> = (value) =>
  Array.isArray(value) ? value.map((each) => number(each) ?? null) : undefined;

/** The texts of messages, whose contents are texts or lists of parts, some of them texts. */
const said: Check<string[]> = (value) => {
  if (!Array.isArray(value)) return undefined;
  const contents = value.flatMap((each) => (isObject(each) ? [each.content].flat() : []));
  return contents.map((part) => text(isObject(part) ? part.text : part)).filter((each) => each !== undefined);
};

type Checks<T> = { [K in keyof Required<T>]: Check<NonNullable<T[K]>> };

export const object =
  <T extends object>(checks: Checks<T>): Check<T> =>
  (value) => {
    if (!isObject(value)) return undefined;
    const out: Partial<T> = {};
    for (const key of Object.keys(checks) as (keyof T & string)[]) {
      const checked = checks[key](value[key]);
      if (checked !== undefined) out[key] = checked;
    }
    return out as T;
  };

const record =
  <T>(check: Check<T>): Check<Record<string, T>> =>
  (value) => {
    if (!isObject(value)) return undefined;
    const entries = Object.entries(value).map(([key, each]) => [key, check(each)] as const);
    return Object.fromEntries(entries.filter(([, each]) => each !== undefined)) as Record<string, T>;
  };

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const side = object<Partial<Side>>({ name: text, positions: list(number) });

const manifest = object<Manifest>({
  schema_version: number,
  name: text,
  model: object({
    name: text,
    path_or_id: text,
    family: text,
  }),
  prompt_length: number,
  decoder_start: number,
  tokens: places(
    object({
      position: number,
      id: number,
      text,
      kind: text,
      image: number,
      row: number,
      col: number,
      box: list(number),
    }),
  ),
  images: places(
    object({
      path: text,
      sha256: text,
      size: list(number),
      grid: list(number),
      layout: text,
      tokens: number,
      video: number,
      positions: list(number),
    }),
  ),
  generated: places(object({ step: number, id: number, text, probability: number })),
  head_space: text,
  mask_mode: text,
  tower: text,
  vision: object({ readers: text }),
  vision_attention: text,
  noise_floor: object({
    Full: record(number),
    Head: record(number),
    by_layer: object({
      layers: list(number),
      variants: list(text),
      metrics: list(text),
      values: places(places(numbers)),
    }),
  }),
  metrics: list(object<Partial<Metric>>({ name: text, column: text, title: text, unit: text, range: numbers })),
  unmasked_length: object({
    layers: list(number),
    variants: list(text),
    values: places(places(numbers)),
  }),
  null: object({
    runs: number,
    percentiles: list(object({ position: number, value: number, percentile: number })),
  }),
  sinks: list(object({ position: number, weight: number, value_length: number })),
  skipped_layers: list(object({ layer: number, reason: text })),
  notes: list(text),
  rows: number,
  files: list(text),
  units: list(object({ label: text, positions: list(number) })),
  effects: object({
    contrast: list(text),
    noise: object({ logit: number }),
    routes: list(object({ block: text, source: side, readers: side })),
    refine: object({ units: places(object({ label: text, positions: list(number), parent: number })) }),
  }),
  tables: list(text),
  argv: list(text),
  config: text,
  prompt: text,
  chat: (value) => (typeof value === "boolean" ? value : undefined),
  messages: said,
  bank: object({ folder: text, rows: number, captions: object({ file: text, count: number }) }),
  search: text,
  masking: object({ run: text, variant: text }),
});

/** Of any JSON value; undefined if it is no object. */
export const cleanManifest: Check<Manifest> = (value) => {
  const found = manifest(value);
  // In an encoder-decoder the output follows on the decoder's start token, which is not of the prompt.
  return found?.decoder_start === undefined ? found : { ...found, prompt_length: found.decoder_start + 1 };
};

/** Does an object with these keys look like a manifest of ours? Two typical keys are enough: tools add and drop some. */
export function looksLikeManifest(keys: readonly string[]): boolean {
  const typical = [
    "schema_version",
    "model",
    "prompt",
    "prompt_length",
    "tokens",
    "generated",
    "noise_floor",
    "head_space",
    "files",
  ];
  return typical.filter((key) => keys.includes(key)).length >= 2;
}

export function parseManifest(json: string): Manifest {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw new LoadError("the manifest is cut off or no valid JSON");
  }
  const cleaned = isObject(value) && looksLikeManifest(Object.keys(value)) ? cleanManifest(value) : undefined;
  if (!cleaned) throw new LoadError("this JSON is neither a result table nor the manifest of a run");
  return cleaned;
}

/** The run with the manifest's knowledge about its tokens, and a note for everything the two disagree on. */
export function withManifest(run: Run, manifest: Manifest): Run {
  const byPosition = new Map((manifest.tokens ?? []).map((token) => [token.position, token]));
  const members = membersOf(manifest);
  const tokens = run.tokens.map((token): TokenInfo => {
    const more = byPosition.get(token.position);
    if (!more) return token;
    const kind = more.kind === "image" || more.kind === "special" ? more.kind : "text";
    const box = more.box?.length === 4 ? (more.box as TokenInfo["box"]) : null;
    const { id = null, image = null, row = null, col = null } = more;
    const unit = members(token);
    if (!unit) return { ...token, kind, id, image, row, col, box };
    const patches = unit.every((position) => byPosition.get(position)?.kind === "image");
    return { ...token, kind: patches ? "image" : "text", image: patches ? image : null, members: unit };
  });
  const pictures = (manifest.images ?? []).map((_, i) => run.pictures[i] ?? null);
  const named = withRelative(withTitles(run, manifest), manifest);
  return { ...named, tokens, manifest, pictures, notes: [...run.notes, ...disagreements(run, manifest)] };
}

/** Positions of the unit that a token of the table stands for; undefined if it stands for itself. */
export function membersOf({
  units,
}: Pick<Manifest, "units">): (token: Pick<TokenInfo, "position" | "text">) => number[] | undefined {
  const known = new Map(
    units?.map(({ label = "", positions = [] }) => [`${positions[0]} ${wellFormed(label)}`, positions]),
  );
  return ({ position, text }) => known.get(`${position} ${wellFormed(text)}`);
}

/** Sentences; none if the manifest fits the run. */
export function disagreements(run: Run, manifest: Manifest): string[] {
  const notes: string[] = [];
  if ((manifest.schema_version ?? 1) > 1) {
    notes.push(
      `The manifest has schema version ${manifest.schema_version}; this page knows version 1 and may show less.`,
    );
  }
  if (manifest.rows !== undefined && manifest.rows !== run.rows) {
    const rows = `${run.rows.toLocaleString("en-US")} of the ${manifest.rows.toLocaleString("en-US")} rows`;
    notes.push(`The table has ${rows} that its manifest names: it is incomplete or of another run.`);
  }
  const texts = new Map((manifest.tokens ?? []).map((token) => [token.position, token.text]));
  const members = membersOf(manifest);
  const other = run.tokens.filter((token) => {
    const { position, text } = token,
      known = texts.get(position);
    return !members(token) && known !== undefined && wellFormed(known) !== wellFormed(text);
  });
  if (other.length) {
    const { position, text } = other[0];
    const example = `${JSON.stringify(text)} in the table, ${JSON.stringify(texts.get(position))} in the manifest`;
    notes.push(`The manifest seems to be of another run: position ${position} is ${example} (${other.length} differ).`);
  }
  return notes;
}

/** Half of a surrogate pair as U+FFFD, which is what UTF-8 files make of it. */
export function wellFormed(text: string): string {
  return text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
}
