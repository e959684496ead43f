/** Draws effects on the answer: a matrix of masked layers or heads, or a list with bars; beside it what the answer becomes. */

import { isFirst } from "../core/aggregate.ts";
import { colourAt, css, paletteOf, share } from "../core/colour.ts";
import type { Ink } from "../core/ink.ts";
import type { Painter } from "../core/painter.ts";
import { isNoise, type Scene } from "../core/scene.ts";
import { number, signed, unspaced, visible } from "../core/tokens.ts";
import { percent } from "../core/words.ts";
import { isByHead, nameOf, outcomeOf, valueAt, type Found } from "./effects-rows.ts";
import { cut } from "./figure.ts";
import { boxOf, eachColumn, eachRow, paintCells, type Cell, type Layout } from "./matrix-paint.ts";

export const HIGH = 20,
  TOP = 30,
  OUTCOME = 210; // pixels for what becomes of the answer
export const LAYER = 52; // for the name of a layer, where it is a row
const STEP = 12; // a part stands that far to the right of the unit it is of
const MONO = { size: 12, mono: true };

export function paint(
  painter: Painter,
  ink: Ink,
  scene: Scene,
  found: Found,
  layout: Layout,
  pointer: Cell | null,
): void {
  const size = { rows: found.rows.length, columns: found.columns.length };
  paintNames(painter, ink, scene, found, layout);
  paintOutcomes(painter, ink, found, layout);
  if (size.columns < 2) paintBars(painter, ink, scene, found, layout);
  else paintWindows(painter, ink, scene, found, layout);
  eachRow(painter, layout, size.rows, (row) => {
    const unit = found.shown.units[found.rows[row].unit],
      [x, y, width, height] = boxOf(layout, size, [row, -1]);
    const frame = (colour: string, thick: number) =>
      painter.rect(1, y - 0.5, x + width - 2, height, null, colour, thick);
    const isLayer = [null, scene.state.layer].includes(found.rows[row].layer) || scene.state.layer === null;
    if (unit.positions.includes(scene.state.token!) && isLayer) frame(ink.accent, 2);
    if (unit.position === scene.hover.token) frame(ink.ink, 1);
    if (pointer?.[0] !== row || size.columns < 2 || pointer[1] < 0) return;
    const [left, top, wide, high] = boxOf(layout, size, pointer);
    painter.rect(left, top, wide - 1, high - 1, null, ink.ink, 2);
  });
}

function paintNames(painter: Painter, ink: Ink, { run, state }: Scene, found: Found, layout: Layout): void {
  const { shown, rows } = found,
    parts = rows.some(({ open }) => open !== null),
    small = { size: 11, colour: ink.muted };
  eachRow(painter, layout, rows.length, (row, y) => {
    const { unit: place, depth, open, layer } = rows[row],
      unit = shown.units[place];
    if (layer !== null) painter.text(layout.left - 6, y + 14, `layer ${layer}`, { ...small, align: "right" });
    if (rows[row - 1]?.unit === place) return; // it has its name
    const colour = unit.position === state.token ? ink.accent : ink.ink;
    const x = unit.route ? 4 : 30 + STEP * (depth + Number(parts)),
      room = layout.left - 4 - x - (layer === null ? 0 : LAYER);
    painter.text(x, y + 14, cut(painter, nameOf(unit, run), room, MONO), { ...MONO, colour });
    if (open !== null) painter.text(x - STEP, y + 14, open ? "▾" : "▸", { size: 12, colour: ink.muted });
    if (!unit.route) painter.text(26, y + 14, String(unit.position), { ...small, align: "right" });
  });
}

/** Right of each row: the answer's probability without and with the mask that stands for it, and what is likeliest then. */
function paintOutcomes(painter: Painter, ink: Ink, found: Found, layout: Layout): void {
  const x = layout.left + layout.wide * found.columns.length + 12,
    small = { size: 11, colour: ink.muted };
  if (painter.width - x < OUTCOME - 20 || found.shown.measure === "interaction") return;
  painter.text(x, 25, isByHead(found) ? "p, strongest head" : "p of the answer", small);
  painter.text(x + 128, 25, "then", small);
  eachRow(painter, layout, found.rows.length, (row, y) => {
    const become = outcomeOf(found, row);
    if (!become) return;
    const falls = `${percent(become.before)} → ${percent(become.after)}`;
    painter.text(x, y + 14, cut(painter, falls, 122, { size: 11 }), { size: 11, colour: ink.ink });
    const then = unspaced(visible(become.top));
    painter.text(x + 128, y + 14, cut(painter, then, OUTCOME - 140, MONO), { ...MONO, colour: ink.ink });
  });
}

function paintWindows(painter: Painter, ink: Ink, { state }: Scene, found: Found, layout: Layout): void {
  const { shown, rows, columns } = found,
    { largest, floor, signed: both } = shown,
    small = { size: 11, colour: ink.muted };
  const { curve, least, first } = state,
    palette = paletteOf(state, both);
  const isOutside = (row: number) => {
    const unit = shown.units[rows[row].unit];
    return !first && isFirst({ ...unit, members: unit.positions });
  };
  const cells = {
    rows: rows.length,
    columns: columns.length,
    value: (row: number, column: number) => valueAt(found, row, column),
    colour: (value: number) => colourAt(palette, share(value, largest, { curve, least }, both)),
    empty: ink.line,
    hatched: (value: number, row: number) => isOutside(row) || isNoise(value, floor),
    gap: { free: 1 },
    number: {
      from: 43,
      size: 11,
      text: (value: number) =>
        Math.abs(value) > 0.005 * largest ? (both ? signed : number)(Number(value.toPrecision(2))) : null,
    },
  };
  paintCells(painter, ink, layout, cells, () => {});
  const every = Math.ceil(18 / layout.wide);
  eachColumn(painter, layout, columns.length, (column, middle) => {
    if (column % every) return;
    columns[column].lines.forEach((name, line) =>
      painter.text(middle, 12 + 13 * line, name, { ...small, align: "center" }),
    );
  });
  (isByHead(found) ? ["", "head"] : ["from layer", "to layer"]).forEach((text, line) =>
    painter.text(layout.left - 5, 12 + 13 * line, text, { ...small, align: "right" }),
  );
}

function paintBars(painter: Painter, ink: Ink, { state }: Scene, found: Found, layout: Layout): void {
  const { shown, rows } = found,
    { largest, floor, signed: both } = shown,
    { left } = layout;
  const values = rows.map((_, row) => valueAt(found, row, 0));
  const measured = values.filter((value) => !isNaN(value));
  const room = layout.wide - 60,
    low = Math.min(0, ...measured),
    scale = room / (Math.max(0, ...measured) - low || 1);
  const zero = left - low * scale,
    palette = paletteOf(state, both);
  painter.text(left, 24, found.columns[0].name, { size: 11, colour: ink.muted });
  eachRow(painter, layout, rows.length, (row, y) => {
    const value = values[row];
    if (isNaN(value)) return;
    const long = Math.max(1, Math.abs(value) * scale);
    const bar = [value < 0 ? zero - long : zero, y + 3, long, HIGH - 6] as const;
    painter.rect(...bar, css(colourAt(palette, share(value, largest, state, both))), ink.faint, 0.5);
    if (isNoise(value, floor)) painter.hatch(...bar, ink.faint);
    const text = (both ? signed : number)(value);
    painter.text(left + layout.wide - 2, y + 14, text, { size: 12, colour: ink.ink, align: "right" });
  });
}
