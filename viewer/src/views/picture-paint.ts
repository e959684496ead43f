/**
 * Drawing the picture view. Over a picture colour is one hue whose opacity grows with the value: where nothing was read, the
 * picture stays as it is. The strongest patches have a frame and their rank.
 */

import { colourAt, css, OVER, paletteOf, share } from "../core/colour.ts";
import type { Ink } from "../core/ink.ts";
import type { Painter } from "../core/painter.ts";
import { isNoise, type Scene } from "../core/scene.ts";
import { number, signed as signedNumber } from "../core/tokens.ts";
import {
  floorOf,
  patchesOf,
  scaleOf,
  strongestPlaces,
  type AnyFigure,
  type Figure,
  type Patch,
  type Scale,
  type Shown,
} from "./patches.ts";
import { base } from "./picture-base.ts";
import { inBox } from "./picture-box.ts";

export const WIDEST = 520; // CSS pixels of a picture
const HIGHEST = 520;
const RANKED = 3; // patches with a frame and a number
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

/** A picture with its cells, the strongest ones, the selection and, where `hover` is given, what the pointer is over. */
export function paint(
  painter: Painter,
  figure: Figure,
  scene: Scene,
  found: Shown,
  at: Area,
  ink: Ink,
  hover: number | null = null,
): void {
  const area = areas(figure, at);
  const values = found.values.get(figure.run)!.of;
  paintMap(painter, figure, scene.state, values, { ...scaleOf(found, figure.run), signed: found.signed }, at, ink);
  if (scene.state.opacity > 0) paintRanks(painter, figure, scene, found, at, area);
  const selected = scene.state.token;
  if (hover !== selected) outline(painter, figure, hover, at, area, ink.ink, ink.paper, 1);
  outline(painter, figure, selected, at, area, ink.accent, ink.paper, 2.5);
  const boxed = inBox(figure, scene.state.region).map(area);
  if (boxed.length) paintBox(painter, boxed, ink.accent);
}

/** Around all of the areas together. */
function paintBox(painter: Painter, boxed: Area[], colour: string): void {
  const [left, top] = [0, 1].map((axis) => Math.min(...boxed.map((each) => each[axis])));
  const [right, bottom] = [0, 1].map((axis) => Math.max(...boxed.map((each) => each[axis] + each[axis + 2])));
  const box = [left + 1.5, top + 1.5, right - left - 3, bottom - top - 3] as const;
  painter.rect(...box, null, "#ffffff", 5);
  painter.rect(...box, null, colour, 2.5);
}

/** The picture alone, or an empty frame where it is not there. */
export function paintPicture(painter: Painter, figure: AnyFigure, at: Area, ink: Ink): boolean {
  const plain = base.get(figure)?.plain;
  if (plain) painter.image(...at, plain);
  else painter.rect(at[0] + 0.5, at[1] + 0.5, at[2] - 1, at[3] - 1, null, ink.line);
  return !!plain;
}

type Tinted = Pick<Scene["state"], "opacity" | "palette" | "curve" | "least">;

/** A picture with one value for each of its patches. */
export function paintMap(
  painter: Painter,
  figure: Figure,
  state: Tinted,
  values: Float32Array,
  { largest, sizes, signed }: { largest: number; sizes: Float32Array | null; signed: boolean },
  at: Area,
  ink: Ink,
): void {
  const over = paintPicture(painter, figure, at, ink),
    area = areas(figure, at),
    { curve, least } = state;
  for (const patch of figure.patches) {
    const value = values[patch.place];
    if (isNaN(value)) {
      if (!over) painter.rect(...area(patch), ink.empty);
      continue;
    }
    const place = share(value, largest, { curve, least }, signed, sizes);
    painter.rect(
      ...area(patch),
      over ? tint(place, state.opacity, signed) : css(colourAt(paletteOf(state, signed), place)),
    );
  }
}

/** The colour of a place on the scale, to be laid over a picture. */
function tint(place: number, opacity: number, signed: boolean): string {
  const [hue, part] = signed ? [place < 0.5 ? OVER.less : OVER.more, Math.abs(2 * place - 1)] : [OVER.plain, place];
  return `rgba(${hue.join(", ")}, ${Number((part * opacity).toFixed(4))})`;
}

/** Frames and numbers of the strongest patches, or of the units that they belong to. */
function paintRanks(
  painter: Painter,
  figure: Figure,
  { state }: Scene,
  found: Shown,
  at: Area,
  area: (patch: Patch) => Area,
): void {
  const values = found.values.get(figure.run)!.of;
  const best = strongestPlaces(figure, values, RANKED).filter(
    (place) => !isNoise(values[place], floorOf(found, figure.run, state)),
  );
  for (const [rank, place] of [...best.entries()].reverse()) {
    const patches = figure.patches.filter((patch) => patch.place === place);
    frame(painter, patches, at, area, "#ffffff", 4);
    frame(painter, patches, at, area, "#1d1d22", 1.5);
    const [x, y, width, height] = area(patches[0]);
    if (width < 14 || height < 14) continue;
    painter.rect(x + 2, y + 2, 14, 15, "#1d1d22");
    painter.text(x + 9, y + 13.5, String(rank + 1), { size: 11, bold: true, align: "center", colour: "#ffffff" });
  }
}

/** Around a patch, or each one of a unit, with an edge of the page's colour so that it is seen on every cell. */
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
  const patches = patchesOf(figure, position);
  frame(painter, patches, at, area, edge, thick + 2);
  frame(painter, patches, at, area, colour, thick);
}

/** Around all of the patches together: not where two of them meet. At the edge of the picture it stays inside. */
function frame(
  painter: Painter,
  patches: Patch[],
  at: Area,
  area: (patch: Patch) => Area,
  colour: string,
  thick: number,
): void {
  const half = thick / 2,
    corner = ([x, y]: Area) => `${x},${y}`;
  const all = patches.map(area),
    corners = new Set(all.map(corner));
  for (const [x, y, width, height] of all) {
    const left = Math.max(x, at[0] + half),
      top = Math.max(y, at[1] + half);
    const right = Math.min(x + width, at[0] + at[2] - half),
      bottom = Math.min(y + height, at[1] + at[3] - half);
    const besides = (dx: number, dy: number) => corners.has(corner([x + dx * width, y + dy * height, 0, 0]));
    if (all.length === 1) painter.rect(left, top, right - left, bottom - top, null, colour, thick);
    else {
      if (!besides(0, -1)) painter.line([left - half, top, right + half, top], colour, thick);
      if (!besides(0, 1)) painter.line([left - half, bottom, right + half, bottom], colour, thick);
      if (!besides(-1, 0)) painter.line([left, top - half, left, bottom + half], colour, thick);
      if (!besides(1, 0)) painter.line([right, top - half, right, bottom + half], colour, thick);
    }
  }
}

/** The colour scale, with what its ends and its middle stand for; over pictures as it looks on white. */
export function paintBar(
  painter: Painter,
  { state }: Scene,
  { signed, figures }: Shown,
  { largest }: Scale,
  x: number,
  y: number,
  ink: Ink,
): void {
  const over = figures.some((figure) => base.get(figure)?.plain),
    parts = 60;
  painter.rect(x, y, BAR_WIDTH, 12, over ? "#ffffff" : ink.paper, ink.line);
  for (let part = 0; part < parts; part++) {
    const value = signed ? (2 * part) / (parts - 1) - 1 : part / (parts - 1);
    const place = share(value, 1, { curve: state.curve === "rank" ? "linear" : state.curve }, signed);
    const colour = over ? tint(place, state.opacity, signed) : css(colourAt(paletteOf(state, signed), place));
    painter.rect(x + (part * BAR_WIDTH) / parts, y, BAR_WIDTH / parts, 12, colour);
  }
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
