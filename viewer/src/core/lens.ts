/**
 * What image tokens say, as numbers: the neighbours of a patch in a layer, scales, which bank layer wins, a word's patches.
 *
 * Layer k is what block k reads, so it is the layer k of a masking run, too. The state after the last block is read by none.
 */

import type { Neighbors, Run } from "../data/types.ts";
import { colourAt, css, type Rgb } from "./colour.ts";
import { tokenIndex, type Scene } from "./scene.ts";
import type { State } from "./state.ts";
import { remembered } from "./track.ts";

export interface LensScene {
  all: Neighbors[];
  found: Neighbors;
  /** With a layer, a group and a tint that there are. */
  state: State & { layer: number };
  /** Place in found.groups of what is shown. */
  group: number;
  /** Place in found.tokens of the selected patch, or -1. */
  patch: number;
  /** Positions of the patches in the run in front; null if that has not the same picture. */
  twin: number[] | null;
  /** There are runs below. */
  beside: boolean;
  dark: boolean;
}

export function lensScene(
  all: Neighbors[],
  found: Neighbors,
  state: State,
  scene: Scene | null,
  dark: boolean,
): LensScene {
  const { layers, groups, impact } = found,
    twin = scene && twinOf(found, scene.run);
  const layer = state.layer !== null && layers.includes(state.layer) ? state.layer : layers[layers.length >> 1];
  const near = groups.includes(state.near) ? state.near : nearerGroup(found);
  const tint =
    (state.tint === "impact" && !impact) || (state.tint === "bank" && near !== "merged") ? "similarity" : state.tint;
  const token = scene?.state.token ?? null;
  const patch = twin ? (token === null ? -1 : twin.indexOf(token)) : tokenIndex(found, state.patch);
  return {
    all,
    found,
    state: { ...state, layer, near, tint },
    group: groups.indexOf(near),
    patch,
    twin,
    beside: scene !== null,
    dark,
  };
}

/** The group that is shown until another is chosen: the one whose tokens are nearer, the static vocabulary or the first. */
function nearerGroup(found: Neighbors): string {
  const { groups } = found,
    [first] = groups;
  const fixed = groups.indexOf("static");
  return fixed > 0 && nearness(found, fixed) > nearness(found, 0) ? groups[fixed] : first;
}

const known = new WeakMap<Neighbors, Map<number, number>>();

/** The mean similarity of the nearest token, over patches and layers. */
function nearness(found: Neighbors, group: number): number {
  const means = known.get(found) ?? new Map<number, number>();
  known.set(found, means);
  if (!means.has(group)) {
    const { layers, tokens, similarity } = found;
    const rows = layers.flatMap((layer) => tokens.map((_, token) => best(found, group, layer, token)));
    const there = rows.filter((row) => row >= 0);
    means.set(group, there.reduce((sum, row) => sum + similarity[row], 0) / there.length);
  }
  return means.get(group)!;
}

const SAY_NOTHING = new Set(
  "a an the and or of in on at to by for from with as is are was were be been has have had it its this that there".split(
    " ",
  ),
);

/** A word of its own or the beginning of one; neither a comma, nor "is", nor a special token. */
function names(text: string): boolean {
  const word = text
    .replace(/^[\u0120\u2581]/, "")
    .trim()
    .toLowerCase();
  return /^\p{L}{2,}$/u.test(word) && !SAY_NOTHING.has(word);
}

/** For every image token the position of the same patch in a run of the same pictures; -1 if it was not masked there. */
export function twinOf({ manifest, tokens }: Neighbors, run: Run): number[] | null {
  const shas = (of: Neighbors["manifest"]) => of?.images?.map(({ sha256 }) => sha256 ?? NaN).join() ?? "";
  if (!shas(manifest) || shas(manifest) !== shas(run.manifest)) return null;
  const places = new Map(
    run.tokens.map(({ image, row, col, position, kind }) => [
      kind === "image" && row !== null ? [image, row, col].join() : `${position}`,
      position,
    ]),
  );
  return tokens.map(
    ({ image, row, col, position }) => places.get([image, row, col].join()) ?? places.get(`${position}`) ?? -1,
  );
}

/** Rows of the table: the neighbours of a token in a layer, nearest first. */
export function nearest(
  { layers, tokens, starts, rows }: Neighbors,
  group: number,
  layer: number,
  token: number,
): Int32Array {
  const cell = (group * layers.length + layers.indexOf(layer)) * tokens.length + token;
  return group < 0 ? rows.subarray(0, 0) : rows.subarray(starts[cell], starts[cell + 1]);
}

/** The row of the nearest one, -1: none. */
export const best = (found: Neighbors, group: number, layer: number, token: number): number =>
  nearest(found, group, layer, token)[0] ?? -1;

/** The masking impact of a token in a layer; NaN: there is none. */
export const impactOf = ({ impact, layers, tokens }: Neighbors, layer: number, token: number): number =>
  impact?.[layers.indexOf(layer) * tokens.length + token] ?? NaN;

/** "of all bank layers", "of bank layer 3", "of the static vocabulary". */
export const groupName = (group: string) =>
  group === "merged" ? "all bank layers" : group === "static" ? "static vocabulary" : `bank layer ${group}`;

/** For each image token what colours it: the similarity of its nearest neighbour, the bank layer of that, or the masking impact. NaN: none. */
export function tints({ found, group, state: { tint } }: LensScene, layer: number): Float32Array {
  const { tokens, similarity, bankLayer } = found;
  return Float32Array.from(tokens, (_, token) => {
    if (tint === "impact") return impactOf(found, layer, token);
    const row = best(found, group, layer, token);
    return row < 0 ? NaN : (tint === "bank" ? bankLayer : similarity)[row];
  });
}

/** Ends of the colour scale, the same for all layers, so that they can be compared. Impact begins at 0. */
export const scaleOf = remembered(
  (scene: LensScene): [low: number, high: number] => {
    let [low, high] = scene.state.tint === "impact" ? [0, 0] : [Infinity, -Infinity];
    for (const layer of scene.found.layers)
      for (const value of tints(scene, layer)) [low, high] = [value < low ? value : low, value > high ? value : high];
    return low <= high ? [low, high] : [0, 0];
  },
  ({ found }) => found,
);

export function tintOf(scene: LensScene, value: number, [low, high]: [number, number]): Rgb {
  const {
    state: { tint, palette },
    found: { bankLayers },
  } = scene;
  if (tint === "bank") return bankColour(scene, bankLayers.indexOf(value));
  return colourAt(palette, high > low ? (value - low) / (high - low) : 1);
}

/** Later bank layers are lighter. In viridis, whatever the palette: its hues are apart, and none is the grey of a picture. */
export const bankColour = ({ found: { bankLayers } }: LensScene, place: number) =>
  colourAt("viridis", bankLayers.length > 1 ? 0.1 + (0.85 * place) / (bankLayers.length - 1) : 0.5);

export const bankCss = (scene: LensScene, layer: number) =>
  css(bankColour(scene, scene.found.bankLayers.indexOf(layer)));

/** Layer evolution: of how many image tokens the nearest neighbour comes from each bank layer. Null without merged rows. */
export function wins(found: Neighbors, layer: number): number[] | null {
  const merged = found.groups.indexOf("merged");
  if (merged < 0 || !found.bankLayers.length) return null;
  const counts = found.bankLayers.map(() => 0);
  found.tokens.forEach((_, token) => {
    const row = best(found, merged, layer, token);
    if (row >= 0) counts[found.bankLayers.indexOf(found.bankLayer[row])]++;
  });
  return counts;
}

/** Of one layer: image tokens that have a neighbour, of any rank, whose token contains a word; with the row of the first one. */
export type Hits = Map<number, number>;
/** The hits in every layer, as found.layers. Null: no word is looked for. */
export const matching = remembered(
  ({ found, group, state: { find } }: LensScene): Hits[] | null => {
    const word = find.trim().toLowerCase();
    if (!word) return null;
    const has = found.texts.map((text) => text.toLowerCase().includes(word)); // each text once
    const hit = (layer: number, token: number) =>
      nearest(found, group, layer, token).find((row) => has[found.token[row]]);
    return found.layers.map((layer) => {
      const rows = found.tokens.map((_, token) => [token, hit(layer, token)] as const);
      return new Map(rows.filter((each): each is readonly [number, number] => each[1] !== undefined));
    });
  },
  ({ found }) => found,
);

/** The selected patch, or the one that is shown until another is selected. */
export function shownPatch({ found, patch, group, state }: LensScene): { token: number; why: string } {
  if (patch >= 0) return { token: patch, why: "" };
  // One that names something in the layer that is shown, if there is any.
  const row = (token: number) => best(found, group, state.layer, token);
  const words = [...found.tokens.keys()].filter((token) => row(token) >= 0 && names(tokenText(found, row(token))));
  const { impact, tokens, layers, similarity } = found;
  const value = (layer: number, token: number) =>
    impact ? impactOf(found, layer, token) : (similarity[best(found, group, layer, token)] ?? NaN);
  let strongest = 0,
    most = -Infinity;
  for (const layer of layers)
    for (const token of words.length ? words : tokens.keys())
      if (value(layer, token) > most) [strongest, most] = [token, value(layer, token)];
  return { token: strongest, why: impact ? "the largest masking impact" : "the highest similarity" };
}

/** Word pieces of some vocabularies begin with a sign for a space. */
export const tokenText = ({ texts, token }: Neighbors, row: number) =>
  texts[token[row]].replace(/^[\u0120\u2581]/, " ");

export interface Sentence {
  before: string;
  token: string;
  after: string;
  /** Other places of the caption where the same text stands: the table has the token's number, not its letters. */
  others: number;
}

/**
 * A neighbour in its caption. Where the token's text stands in it several times, the place is the one with as many words and
 * signs before it as the token has tokens before it, or the next fewer. Null: it is not found, or there is no caption.
 */
export function sentence(found: Neighbors, row: number): Sentence | null {
  const caption = found.texts[found.caption[row]],
    token = tokenText(found, row);
  if (!caption || !token) return null;
  const text = caption.includes(token) ? token : token.trim();
  const places: number[] = [];
  if (text) for (let at = caption.indexOf(text); at >= 0; at = caption.indexOf(text, at + 1)) places.push(at);
  if (!places.length) return null;
  const before = (at: number) => (caption.slice(0, at).match(/[\p{L}\p{N}]+|[^\p{L}\p{N}\s]/gu) ?? []).length;
  const at = places.findLast((place) => before(place) <= found.captionPosition[row]) ?? places[0];
  const from = at + text.length - text.trimStart().length; // a space before it is not marked
  return {
    before: caption.slice(0, from),
    token: caption.slice(from, at + text.length),
    after: caption.slice(at + text.length),
    others: places.length - 1,
  };
}
