/** The prompt as it was given to the model, also the tokens that were not masked, and what was generated after it. */

import { at, type ManifestToken, type Run, type TokenInfo } from "../data/types.ts";
import { importance, isFirst } from "./aggregate.ts";
import { counterparts, isSame } from "./align.ts";
import { onOneScale } from "./beside.ts";
import { risingSizes } from "./colour.ts";
import { matrix, noiseFloor, tokenIndex, type Scene } from "./scene.ts";
import type { State } from "./state.ts";
import { remembered } from "./track.ts";
import { isDifference } from "./words.ts";

export interface PromptToken {
  info: TokenInfo;
  /** Place in run.tokens; -1: never masked. */
  place: number;
  /** The step that predicts it; null: of the prompt. */
  step: number | null;
  probability: number | null;
}

/** The tokens of one picture that follow each other. */
export interface ImageBlock {
  image: number;
  rows: number;
  cols: number;
  /** Whether rows and columns are those of the picture, not just lines of 16. */
  grid: boolean;
  patches: PromptToken[];
}

export interface PromptText {
  prompt: (PromptToken | ImageBlock)[];
  generated: PromptToken[];
  /** All of them, in order. */
  tokens: PromptToken[];
}

export const isBlock = (piece: PromptToken | ImageBlock): piece is ImageBlock => "rows" in piece;

const known = new WeakMap<Run, PromptText>();

export function promptText(run: Run): PromptText {
  let found = known.get(run);
  if (!found) known.set(run, (found = makePromptText(run)));
  return found;
}

function makePromptText(run: Run): PromptText {
  const infos = new Map<number, TokenInfo>();
  run.manifest?.tokens?.forEach((token, place) =>
    infos.set(token.position ?? place, infoOf(token, token.position ?? place)),
  );
  for (const token of run.tokens) if (!token.members || !infos.has(token.position)) infos.set(token.position, token);
  const start = promptLength(run);
  for (const [place, { step = place, text = "", id = null }] of (run.manifest?.generated ?? []).entries()) {
    const position = start + step;
    if (Number.isFinite(position) && !infos.has(position)) infos.set(position, { ...infoOf({ text }, position), id });
  }
  const probabilities = new Map(
    run.manifest?.generated?.map(({ step, probability }, place) => [step ?? place, probability]),
  );
  const tokens = [...infos.values()]
    .sort((a, b) => a.position - b.position)
    .map((info): PromptToken => {
      const step = info.position < start ? null : info.position - start;
      return {
        info,
        place: tokenIndex(run, info.position),
        step,
        probability: step === null ? null : (probabilities.get(step) ?? null),
      };
    });
  const prompt = blocks(tokens.filter(({ step }) => step === null));
  return { prompt, generated: tokens.filter(({ step }) => step !== null), tokens };
}

function infoOf(token: ManifestToken, position: number): TokenInfo {
  const { id = null, text = "", image = null, row = null, col = null, box } = token;
  const kind = token.kind === "image" || token.kind === "special" ? token.kind : "text";
  return { position, text, kind, id, image, row, col, box: box?.length === 4 ? (box as TokenInfo["box"]) : null };
}

/** Position of the first generated token. Without a manifest: the first one that the first step had not seen yet. */
function promptLength(run: Run): number {
  const said = run.manifest?.prompt_length;
  if (said !== undefined) return said;
  const later = run.tokens.findIndex((_, token) =>
    run.layers.every((_, layer) => isNaN(at(run, run.metrics[0].name, 0, 0, layer, token))),
  );
  return later < 0 || run.steps.length < 2 ? Infinity : run.tokens[later].position;
}

/** Image tokens of one picture that follow each other become one block. */
function blocks(tokens: PromptToken[]): (PromptToken | ImageBlock)[] {
  const pieces: (PromptToken | ImageBlock)[] = [];
  for (const token of tokens) {
    const last = pieces.at(-1);
    const image = token.info.image ?? 0;
    if (token.info.kind !== "image") pieces.push(token);
    else if (last && isBlock(last) && last.image === image) last.patches.push(token);
    else pieces.push({ image, rows: 1, cols: 1, grid: false, patches: [token] });
  }
  return pieces.map((piece) => (isBlock(piece) ? shaped(piece) : piece));
}

function shaped(block: ImageBlock): ImageBlock {
  const { patches } = block;
  if (patches.every(({ info }) => info.row !== null && info.col !== null)) {
    const rows = 1 + Math.max(...patches.map(({ info }) => info.row!));
    const cols = 1 + Math.max(...patches.map(({ info }) => info.col!));
    if (rows * cols <= 4 * patches.length) return { ...block, rows, cols, grid: true };
  }
  const cols = Math.min(16, patches.length);
  return { ...block, rows: Math.ceil(patches.length / cols), cols };
}

/** Where a patch of a block is: row and column. */
export function cellOf(block: ImageBlock, place: number): [row: number, col: number] {
  const { info } = block.patches[place];
  return block.grid ? [info.row!, info.col!] : [Math.floor(place / block.cols), place % block.cols];
}

/** The first and last layer that count, as the run has them. */
export function layerRange(run: Pick<Run, "layers">, { from, to }: Pick<State, "from" | "to">): [number, number] {
  const first = run.layers[0];
  const last = run.layers[run.layers.length - 1];
  const low = from === null ? first : Math.min(Math.max(from, first), last);
  return [low, to === null ? last : Math.max(Math.min(to, last), low)];
}

/** Importance of every token of the run in front, or how much more it is in the second one; and the scales it is shown on. */
export interface Scores {
  value: Float32Array;
  /** Layer with the largest value; of a difference, the layer where the runs differ most. -1: none. */
  peak: Int32Array;
  /** Largest value of text and of image tokens, whatever its sign, position 0 only with state.first. */
  text: number;
  image: number;
  floor: number;
  /** Of a percentile scale, the sizes it is made of; else null. */
  sizes?: { text: Float32Array; image: Float32Array } | null;
  /** Second run minus the first one, or an effect. */
  signed: boolean;
  /** Effects on the answer: which, in words and for a table. */
  what?: string;
  of?: { measure: string; block: string; window: number; effects: { windows: string[] } };
}

export type Compared = Pick<Scene, "run" | "runs" | "state"> & Partial<Pick<Scene, "beside">>;

export const scores = remembered(makeScores, ({ run }: Compared) => run);

function makeScores(scene: Compared): Scores {
  const { run, runs, state } = scene,
    second = isDifference(state, runs) ? runs[1] : null;
  const joined = second ? difference(run, second, state) : joinedOf({ run, state });
  const floor = Math.max(noiseFloor(run, state), second ? noiseFloor(second, state) : 0);
  const found: Scores = { ...joined, text: 0, image: 0, floor, signed: second !== null };
  const all = second
    ? [{ run, value: joined.value }]
    : onOneScale(scene).map((each) => ({ run: each, value: joinedOf({ run: each, state }).value }));
  for (const each of all) widen(found, each.run, each.value, state);
  if (state.curve === "rank") found.sizes = sizesOf(all, state);
  return found;
}

function sizesOf(all: { run: Run; value: Float32Array }[], { first }: State): NonNullable<Scores["sizes"]> {
  const of = (image: boolean) =>
    risingSizes(
      all.flatMap(({ run, value }) =>
        [...value].filter((_, i) => (run.tokens[i].kind === "image") === image && (first || !isFirst(run.tokens[i]))),
      ),
    );
  return { text: of(false), image: of(true) };
}

/** The scales reach as far as the values of a run. */
function widen(scales: Pick<Scores, "text" | "image">, run: Run, values: Float32Array, { first }: State): void {
  run.tokens.forEach((token, place) => {
    const scale = token.kind === "image" ? "image" : "text";
    const size = Math.abs(values[place]);
    if ((!isFirst(token) || first) && size > scales[scale]) scales[scale] = size;
  });
}

const joinedOf = remembered(
  ({ run, state }: Pick<Compared, "run" | "state">) => join(run, state),
  ({ run }) => run,
);

function join(run: Run, state: State): Pick<Scores, "value" | "peak"> {
  const [from, to] = layerRange(run, state);
  return importance(matrix(run, state), { join: state.join, from, to });
}

/** Importance in the second run minus that in the first; NaN for tokens that are compared with none. */
function difference(first: Run, second: Run, state: State): Pick<Scores, "value" | "peak"> {
  const [a, b] = [join(first, state), join(second, state)];
  const same = counterparts(first, second, state.align);
  const [from, to] = layerRange(first, state);
  const [m, n] = [matrix(first, state), matrix(second, state)];
  const layers = m.layers.map((layer) => n.layers.indexOf(layer));
  const apart = m.values.map((value, place) => {
    const [layer, token] = [layers[Math.floor(place / same.length)], same[place % same.length]];
    return layer < 0 || token < 0 ? NaN : Math.abs(n.values[layer * n.tokens.length + token] - value);
  });
  const { peak } = importance({ ...m, values: apart }, { join: state.join, from, to });
  return { value: a.value.map((value, place) => (same[place] < 0 ? NaN : b.value[same[place]] - value)), peak };
}

/** Of a difference by position, where another token stands in the second run: that one. */
export function otherToken({ run, runs, state }: Compared, place: number): TokenInfo | null {
  if (!isDifference(state, runs) || state.align === "token") return null;
  const other = runs[1].tokens[counterparts(run, runs[1], state.align)[place]];
  return other && !isSame(run, run.tokens[place], runs[1], other) ? other : null;
}

/** Places of the tokens that have a value, largest first, whatever the sign; position 0 only with state.first. */
export function ranked(scene: Compared, wanted: (token: TokenInfo) => boolean, first = scene.state.first): number[] {
  const { value } = scores(scene),
    { tokens } = scene.run;
  const places = [...value.keys()].filter(
    (place) => !isNaN(value[place]) && (first || !isFirst(tokens[place])) && wanted(tokens[place]),
  );
  return places.sort((a, b) => Math.abs(value[b]) - Math.abs(value[a]) || a - b);
}

/** How the values of a token were made of those of its layers, for a table. */
export function over({ run, state }: Compared): Record<string, string | number> {
  const [first_layer, last_layer] = layerRange(run, state);
  return { joined: state.join, first_layer, last_layer };
}

/** Why a token has no value, as a clause. */
export function whyMissing({ run, runs, state }: Compared, { info, place, step }: PromptToken): string {
  if (step !== null && step >= state.step) return "not yet generated at this step";
  if (state.query !== null && info.position > state.query) return `after position ${state.query}, which reads`;
  const mode = run.manifest?.mask_mode;
  if (place < 0 && mode === "text" && info.kind === "image")
    return "image tokens were not masked in this run (mask mode text)";
  if (place < 0 && mode === "vision" && info.kind !== "image")
    return "text tokens were not masked in this run (mask mode vision)";
  if (place >= 0 && isDifference(state, runs)) {
    const none = counterparts(run, runs[1], state.align)[place] < 0;
    return `no difference: ${none ? (state.align === "token" ? "not the same token" : "no token there") : "not measured"} in ${runs[1].name}`;
  }
  return place < 0 ? "not masked in this run" : `not measured for ${state.variant} at this step`;
}
