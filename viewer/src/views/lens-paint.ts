/** Drawing what image tokens say: pictures with a word in each patch, the colour scale, and the layer evolution. */

import { colourAt, css, isLight } from "../core/colour.ts";
import { LIGHT, type Ink } from "../core/ink.ts";
import {
  bankColour,
  bankCss,
  best,
  matching,
  scaleOf,
  tintOf,
  tints,
  tokenText,
  wins,
  type LensScene,
} from "../core/lens.ts";
import type { Drawing, Painter } from "../core/painter.ts";
import { number, visible } from "../core/tokens.ts";
import type { Neighbors } from "../data/types.ts";
import { cut, heading } from "./figure.ts";
import type { Figure } from "./patches.ts";
import { base } from "./picture-base.ts";
import { areas, fitted, outline, sizeOf, type Area } from "./picture-paint.ts";

export type LensFigure = Figure<Neighbors>;
export const WIDEST = 720;
/** Large enough for words in many patches; few of them leave room for what is below. */
export const highest = ({ patches }: LensFigure) => (patches.length > 100 ? 660 : 500);
const SMALLEST = 8; // of letters that can be read
const PLATE = "rgba(255, 255, 255, 0.82)"; // behind a word: it is read on every colour and picture

/** The token as it is written into a patch: without its leading space, unless that is all of it. */
export const short = (text: string) => visible(text.trim() || text);

/** A picture with its patches, the words in them, the selected patch and the one pointed at. */
export function paintLens(
  painter: Painter,
  figure: LensFigure,
  scene: LensScene,
  at: Area,
  ink: Ink,
  selected: number | null,
  hover: number | null = null,
): void {
  const { found, group, state } = scene,
    { layer } = state;
  const picture = base.get(figure),
    area = areas(figure, at);
  const values = tints(scene, layer),
    ends = scaleOf(scene),
    hits = matching(scene)?.[found.layers.indexOf(layer)];
  const opacity = picture?.plain ? state.wash : 1;
  if (picture?.plain) painter.image(...at, picture.plain);
  for (const patch of figure.patches) {
    const [x, y, width, height] = area(patch),
      value = values[patch.place];
    if (opacity > 0) {
      const colour = tintOf(scene, value, ends);
      painter.rect(
        x,
        y,
        width,
        height,
        isNaN(value) ? ink.empty : opacity < 1 ? `rgba(${colour.join(", ")}, ${opacity})` : css(colour),
      );
    }
    const out = hits && !hits.has(patch.place);
    if (out) painter.rect(x, y, width, height, `${ink.paper}a0`); // more than half
    if (width > 5 && height > 5) painter.rect(x, y, width, height, null, "rgba(128, 128, 128, 0.45)"); // the grid
    const row = hits ? (hits.get(patch.place) ?? -1) : best(found, group, layer, patch.place);
    const rank = hits && width > 60 && found.rank[row] > 1 ? ` (${found.rank[row]})` : "";
    if (row >= 0) word(painter, short(tokenText(found, row)) + rank, x, y, width, height);
  }
  painter.rect(at[0] + 0.5, at[1] + 0.5, at[2] - 1, at[3] - 1, null, ink.line);
  if (hover !== selected) outline(painter, figure, hover, at, area, ink.ink, ink.paper, 1);
  outline(painter, figure, selected, at, area, ink.accent, ink.paper, 2.5);
}

/** In the middle of a cell, as large as fits, or as much of it as fits; else not at all. */
function word(painter: Painter, text: string, x: number, y: number, width: number, height: number): void {
  const room = width - 6;
  if (room < 10 || height < SMALLEST + 3) return;
  let size = Math.min(15, height * 0.5);
  while (size > SMALLEST && painter.measure(text, { size }) > room) size = Math.max(SMALLEST, size - 1);
  const shown = cut(painter, text, room, { size });
  if ([...shown].length < Math.min(3, [...text].length)) return;
  const wide = painter.measure(shown, { size }) + 4;
  painter.rect(x + (width - wide) / 2, y + height / 2 - size * 0.65, wide, size * 1.3, PLATE);
  painter.text(x + width / 2, y + height / 2 + size * 0.35, shown, { size, align: "center", colour: LIGHT.ink });
}

// --- export -----------------------------------------------------------------------------------------------
export function lensDrawing(
  scene: LensScene,
  figures: LensFigure[],
  title: string,
  lines: string[],
  legend: string,
): Drawing {
  const margin = 16,
    gap = 16,
    top = 60 + 16 * lines.length;
  let right = margin;
  const laid = figures.map((figure) => {
    const [width, height] = fitted(sizeOf(figure), WIDEST, WIDEST, highest(figure)),
      box: Area = [right, top, width, height];
    right += width + gap;
    return { figure, box };
  });
  const bottom = Math.max(...laid.map(({ box }) => box[1] + box[3])) + gap;
  const draw = (painter: Painter) => {
    heading(painter, LIGHT, title, lines);
    for (const { figure, box } of laid)
      paintLens(painter, figure, scene, box, LIGHT, scene.found.tokens[scene.patch]?.position ?? null);
    const {
        state: { tint, palette },
        found,
      } = scene,
      text = { size: 11, colour: LIGHT.muted };
    let x = margin;
    if (tint === "bank") {
      for (const layer of found.bankLayers) {
        painter.rect(x, bottom, 12, 12, bankCss(scene, layer));
        painter.text(x + 16, bottom + 10, String(layer), text);
        x += 30 + painter.measure(String(layer), text);
      }
    } else {
      const [low, high] = scaleOf(scene).map(number);
      painter.text(x, bottom + 10, low, text);
      x += painter.measure(low, text) + 6;
      for (let step = 0; step < 60; step++)
        painter.rect(x + 2 * step, bottom, 2.5, 12, css(colourAt(palette, step / 59)));
      painter.text(x + 126, bottom + 10, high, text);
      x += 138 + painter.measure(high, text);
    }
    painter.text(x, bottom + 10, legend, text);
  };
  return { title, width: Math.max(640, right - gap + margin), height: bottom + 30, draw };
}

/** Layers of the image tokens upwards, bank layers across; of how many image tokens the nearest neighbour comes from there. */
export function evolutionDrawing(scene: LensScene, title: string, lines: string[]): Drawing | null {
  const { found } = scene,
    { layers, bankLayers, tokens } = found;
  if (!wins(found, layers[0])) return null;
  const left = 60,
    top = 84 + 16 * lines.length,
    wide = 44,
    high = 20;
  const draw = (painter: Painter) => {
    heading(painter, LIGHT, title, lines);
    const small = { size: 11, colour: LIGHT.muted };
    painter.text(16, top - 24, "bank layer", small);
    bankLayers.forEach((layer, column) => {
      painter.rect(left + wide * column, top - 6, wide - 1, 4, css(bankColour(scene, column)));
      painter.text(left + wide * (column + 0.5), top - 10, String(layer), { ...small, align: "center" });
    });
    layers.toReversed().forEach((layer, row) => {
      painter.text(left - 6, top + high * row + 14, String(layer), { ...small, align: "right" });
      wins(found, layer)!.forEach((count, column) => {
        const colour = colourAt(scene.state.palette, count / tokens.length);
        painter.rect(left + wide * column, top + high * row, wide - 1, high - 1, count ? css(colour) : LIGHT.empty);
        if (count)
          painter.text(left + wide * (column + 0.5), top + high * row + 14, String(count), {
            size: 11,
            align: "center",
            colour: isLight(colour) ? "black" : "white",
          });
      });
    });
  };
  return {
    title,
    width: Math.max(820, left + wide * bankLayers.length + 16),
    height: top + high * layers.length + 16,
    draw,
  };
}
