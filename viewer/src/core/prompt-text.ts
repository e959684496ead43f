/** The prompt as it was given to the model, also the tokens that were not masked, and what was generated after it. */

import { at, type ManifestToken, type Run, type TokenInfo } from "../data/types.ts";
import { importance, matrix, noiseFloor, tokenIndex } from "./scene.ts";
import type { State } from "./state.ts";

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

export const isBlock = (piece: PromptToken | ImageBlock): piece is ImageBlock => "patches" in piece;

const known = new WeakMap<Run, PromptText>();

export function promptText(run: Run): PromptText {
  let found = known.get(run);
  if (!found) known.set(run, (found = makePromptText(run)));
  return found;
}

function makePromptText(run: Run): PromptText {
  const infos = new Map<number, TokenInfo>();
  run.manifest?.tokens?.forEach((token, place) => infos.set(token.position ?? place, infoOf(token, token.position ?? place)));
  for (const token of run.tokens) infos.set(token.position, token);
  const start = promptLength(run);
  for (const [place, { step = place, text = "", id = null }] of (run.manifest?.generated ?? []).entries()) {
    const position = start + step;
    if (Number.isFinite(position) && !infos.has(position)) infos.set(position, { ...infoOf({ text }, position), id });
  }
  const probabilities = new Map(run.manifest?.generated?.map(({ step, probability }, place) => [step ?? place, probability]));
  const tokens = [...infos.values()].sort((a, b) => a.position - b.position).map((info): PromptToken => {
    const step = info.position < start ? null : info.position - start;
    return { info, place: tokenIndex(run, info.position), step, probability: step === null ? null : (probabilities.get(step) ?? null) };
  });
  const prompt = blocks(tokens.filter(({ step }) => step === null));
  return { prompt, generated: tokens.filter(({ step }) => step !== null), tokens };
}

function infoOf(token: ManifestToken, position: number): TokenInfo {
  const { id = null, text = "", image = null, row = null, col = null } = token;
  const kind = token.kind === "image" || token.kind === "special" ? token.kind : "text";
  return { position, text, kind, id, image, row, col, box: null };
}

/** Position of the first generated token. Without a manifest: the first one that the first step had not seen yet. */
function promptLength(run: Run): number {
  const said = run.manifest?.prompt_length;
  if (said !== undefined) return said;
  const later = run.tokens.findIndex((_, token) => run.layers.every((_, layer) => Number.isNaN(at(run, "l2", 0, 0, layer, token))));
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
export function layerRange(run: Run, { from, to }: State): [number, number] {
  const first = run.layers[0];
  const last = run.layers[run.layers.length - 1];
  const low = from === null ? first : Math.min(Math.max(from, first), last);
  return [low, to === null ? last : Math.max(Math.min(to, last), low)];
}

/** Importance of every token of a run, and the scales it is shown on. */
export interface Scores {
  value: Float32Array;
  /** Layer with the largest value; -1: none. */
  peak: Int32Array;
  /** Largest value of text and of image tokens, position 0 only with state.first. */
  text: number;
  image: number;
  floor: number;
}

const computed = new WeakMap<Run, { key: string; scores: Scores }>();

export function scores(run: Run, state: State): Scores {
  const [from, to] = layerRange(run, state);
  const key = [state.metric, state.variant, state.step, state.join, from, to, state.first].join();
  const last = computed.get(run);
  if (last?.key === key) return last.scores;
  const found = { ...importance(matrix(run, state), { ...state, from, to }), text: 0, image: 0, floor: noiseFloor(run, state) };
  run.tokens.forEach((token, place) => {
    const scale = token.kind === "image" ? "image" : "text";
    if ((token.position > 0 || state.first) && found.value[place] > found[scale]) found[scale] = found.value[place];
  });
  computed.set(run, { key, scores: found });
  return found;
}

/** Places of the tokens that have a value, largest first; position 0 only with state.first. */
export function ranked(run: Run, state: State, wanted: (token: TokenInfo) => boolean): number[] {
  const { value } = scores(run, state);
  const places = [...value.keys()].filter((place) =>
    !Number.isNaN(value[place]) && (state.first || run.tokens[place].position > 0) && wanted(run.tokens[place]));
  return places.sort((a, b) => value[b] - value[a] || a - b);
}

/** Why a token has no value, as a clause. */
export function whyMissing(run: Run, state: State, { info, place, step }: PromptToken): string {
  if (step !== null && step >= state.step) return "not yet generated at this step";
  const mode = run.manifest?.mask_mode;
  if (place < 0 && mode === "text" && info.kind === "image") return "image tokens were not masked in this run (mask mode text)";
  if (place < 0 && mode === "vision" && info.kind !== "image") return "text tokens were not masked in this run (mask mode vision)";
  return place < 0 ? "not masked in this run" : `not measured for ${state.variant} at this step`;
}
