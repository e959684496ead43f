/** Drawing the picture view: pictures with their cells, and the colour scale. */

import { colourAt, css, isLight, paletteOf, share, table as colours } from "../core/colour.ts";
import type { Ink } from "../core/ink.ts";
import type { Painter } from "../core/painter.ts";
import { isNoise, type Scene } from "../core/scene.ts";
import { number, signed as signedNumber } from "../core/tokens.ts";
import {
  floorOf,
  patchesOf,
  scaleOf,
  type AnyFigure,
  type Figure,
  type Patch,
  type Scale,
  type Shown,
} from "./patches.ts";
import { base, MIDDLE_GREY } from "./picture-base.ts";

export const WIDEST = 420; // CSS pixels of a picture
const HIGHEST = 480;
export const BAR_WIDTH = 240;
export const BAR_HEIGHT = 30;

export type Area = readonly [left: number, top: number, width: number, height: number];

/** Width and height of the picture in the unit of its boxes; of the file, where no manifest says. */
export function sizeOf(figure: AnyFigure): [number, number] {
  return figure.size ?? base.get(figure)?.size ?? [WIDEST, WIDEST * 0.75];
}

export function fitted(
  [width, height]: [number, number],
  available: number,
  widest = WIDEST,
  highest = HIGHEST,
): [number, number] {
  const scale = Math.min(Math.min(widest, available) / width, highest / height);
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** Where a patch is in a picture drawn at `at`: in whole pixels, so that there are no seams between cells. */
export function areas(figure: AnyFigure, at: Area): (patch: Patch) => Area {
  const [w, h] = sizeOf(figure);
  return ({ box }) => {
    const [left, right] = [box[0], box[2]].map((x) => Math.round((x / w) * at[2]));
    const [top, bottom] = [box[1], box[3]].map((y) => Math.round((y / h) * at[3]));
    return [at[0] + left, at[1] + top, right - left, bottom - top];
  };
}

/** A picture with its cells, the selection and, where `hover` is given, what the pointer is over. */
export function paint(
  painter: Painter,
  figure: Figure,
  scene: Scene,
  found: Shown,
  at: Area,
  ink: Ink,
  hover: number | null = null,
): void {
  const picture = base.get(figure);
  const opacity = picture?.plain ? scene.state.opacity : 1;
  const area = areas(figure, at);
  if (picture?.plain && picture.grey)
    painter.image(...at, opacity > 0 && figure.patches.length ? picture.grey : picture.plain);
  else painter.rect(at[0] + 0.5, at[1] + 0.5, at[2] - 1, at[3] - 1, null, ink.line);
  if (opacity > 0) paintCells(painter, figure, scene, found, area, opacity, ink);
  const selected = scene.state.token;
  if (hover !== selected) outline(painter, figure, hover, at, area, ink.ink, ink.paper, 1);
  outline(painter, figure, selected, at, area, ink.accent, ink.paper, 2.5);
}

function paintCells(
  painter: Painter,
  figure: Figure,
  { state }: Scene,
  found: Shown,
  area: (patch: Patch) => Area,
  opacity: number,
  ink: Ink,
): void {
  const values = found.values.get(figure.run)!.of;
  const palette = paletteOf(state, found.signed);
  const floor = floorOf(found, figure.run, state);
  const largest = scaleOf(found, figure.run);
  for (const patch of figure.patches) {
    const value = values[patch.place];
    if (isNaN(value)) {
      painter.rect(...area(patch), ink.empty);
      continue;
    }
    const rgb = colourAt(palette, share(value, largest, state.curve, found.signed));
    painter.rect(...area(patch), opacity < 1 ? `rgba(${rgb.join(", ")}, ${opacity})` : css(rgb));
    if (isNoise(value, floor))
      painter.hatch(...area(patch), isLight(rgb) ? "rgba(0, 0, 0, 0.45)" : "rgba(255, 255, 255, 0.45)");
  }
}

/** Around a patch, or each one of a unit, with an edge of the page's colour so that it is seen on every cell; outside of it, cells are small. */
export function outline(
  painter: Painter,
  figure: AnyFigure,
  position: number | null,
  at: Area,
  area: (patch: Patch) => Area,
  colour: string,
  edge: string,
  thick: number,
): void {
  const half = thick / 2,
    room = half + 1; // at the edge of the picture it stays inside
  const frames = patchesOf(figure, position).map((patch) => {
    const [x, y, width, height] = area(patch);
    const [left, top] = [Math.max(x - half, at[0] + room), Math.max(y - half, at[1] + room)];
    return [
      left,
      top,
      Math.min(x + width + half, at[0] + at[2] - room) - left,
      Math.min(y + height + half, at[1] + at[3] - room) - top,
    ] as const;
  });
  for (const [stroke, wide] of [
    [edge, thick + 2],
    [colour, thick],
  ] as const) {
    for (const frame of frames) painter.rect(...frame, null, stroke, wide);
  }
}

/** The colour scale, with what its ends and its middle stand for. */
export function paintBar(
  painter: Painter,
  { state }: Scene,
  { signed, figures }: Shown,
  { largest }: Scale,
  x: number,
  y: number,
  ink: Ink,
): void {
  const pixels = new ImageData(256, 1);
  const palette = colours(paletteOf(state, signed));
  for (let i = 0; i < 256; i++) {
    const value = signed ? (2 * i) / 255 - 1 : i / 255;
    pixels.data.set([...palette[Math.round(share(value, 1, state.curve, signed) * 255)], 255], 4 * i);
  }
  const over = figures.some((figure) => base.get(figure)?.plain); // as the colours look over a picture of middle grey
  if (over) painter.rect(x, y, BAR_WIDTH, 12, MIDDLE_GREY);
  painter.cells(x, y, BAR_WIDTH, 12, pixels, over ? state.opacity : 1);
  const marks = signed ? [-largest, 0, largest] : [0, largest / 2, largest];
  const aligned = ["left", "center", "right"] as const;
  marks.forEach((mark, i) =>
    painter.text(x + (BAR_WIDTH * i) / 2, y + 26, (signed && mark ? signedNumber : number)(mark), {
      size: 11,
      colour: ink.muted,
      align: aligned[i],
    }),
  );
}
