/** Draws a matrix, or the part of it that is in view: cells, names of rows and columns, frames. */

import { css, type Rgb } from "../core/colour.ts";
import type { Ink } from "../core/ink.ts";
import { setPixel, type Painter } from "../core/painter.ts";
import { contrast, hatching, span, type Span } from "./heatmap-paint.ts";

/** Where cells are: behind the names, which stay in place while the cells scroll. */
export interface Layout {
  left: number;
  top: number;
  /** Of a cell. */
  wide: number;
  high: number;
  /** Of all of it. */
  size: [width: number, height: number];
  /** What is scrolled away. */
  x: number;
  y: number;
}

export const laidOut = (
  place: Pick<Layout, "left" | "top" | "wide" | "high">,
  { rows, columns }: { rows: number; columns: number },
): Layout => ({
  ...place,
  size: [place.left + place.wide * columns + 2, place.top + place.high * rows + 2],
  x: 0,
  y: 0,
});

/** Row and column in the order shown; -1: over the name of a column, or of a row. */
export type Cell = readonly [row: number, column: number];

export interface Cells {
  rows: number;
  columns: number;
  /** NaN: none. */
  value(row: number, column: number): number;
  colour(value: number, row: number): Rgb;
  /** Of a cell without a value; null: as the paper. */
  empty: string | null;
  hatched(value: number, row: number, column: number): boolean;
  /** Between cells: pixels left free, or lines over the edges of cells that are at least `from` wide. */
  gap: { free: number } | { from: number };
  /** Numbers in cells that have room for them; null: not in this one. */
  number: { from: number; size: number; text: (value: number) => string | null };
}

const TINY = 6; // pixels of a cell in which nothing but its colour is seen

const rowsIn = (painter: Painter, { top, y, high }: Layout, count: number) =>
  span(y, painter.height - top, high, count);
const columnsIn = (painter: Painter, { left, x, wide }: Layout, count: number) =>
  span(x, painter.width - left, wide, count);

/** The upper left corner of a cell. */
const cornerOf = ({ left, top, wide, high, x, y }: Layout, row: number, column: number): [x: number, y: number] => [
  left - x + column * wide,
  top - y + row * high,
];

/** A row, a column (the other one is -1) or a cell, to be framed. */
export function boxOf(
  layout: Layout,
  { rows, columns }: { rows: number; columns: number },
  [row, column]: Cell,
): [number, number, number, number] {
  const [x, y] = cornerOf(layout, Math.max(0, row), Math.max(0, column));
  return [x, y, layout.wide * (column < 0 ? columns : 1), layout.high * (row < 0 ? rows : 1)];
}

/** `frames` is drawn on top of the cells, and with them stays behind the names. */
export function paintCells(painter: Painter, ink: Ink, layout: Layout, cells: Cells, frames: () => void): void {
  const rows = rowsIn(painter, layout, cells.rows),
    columns = columnsIn(painter, layout, cells.columns);
  if (rows[1] <= rows[0] || columns[1] <= columns[0]) return;
  const [endX, endY] = cornerOf(layout, cells.rows, cells.columns);
  const [right, bottom] = [Math.min(painter.width, endX), Math.min(painter.height, endY)];
  painter.clip(layout.left - 2, layout.top - 2, right - layout.left + 4, bottom - layout.top + 4, () => {
    if ("from" in cells.gap) paintRaster(painter, layout, cells, rows, columns);
    eachCell(layout, rows, columns, (row, column, x, y) => paintCell(painter, layout, cells, row, column, x, y));
    if ("from" in cells.gap && layout.wide >= cells.gap.from)
      paintLines(painter, ink, layout, rows, columns, right, bottom);
    frames();
  });
}

function eachCell(
  { left, top, wide, high, x, y }: Layout,
  rows: Span,
  columns: Span,
  act: (row: number, column: number, x: number, y: number) => void,
): void {
  for (let row = rows[0]; row < rows[1]; row++)
    for (let column = columns[0]; column < columns[1]; column++)
      act(row, column, left - x + column * wide, top - y + row * high);
}

/** All colours at once: there may be hundreds of thousands of cells. */
function paintRaster(painter: Painter, layout: Layout, cells: Cells, rows: Span, columns: Span): void {
  const raster = new ImageData(columns[1] - columns[0], rows[1] - rows[0]),
    { data } = raster;
  for (let row = rows[0], place = 0; row < rows[1]; row++) {
    for (let column = columns[0]; column < columns[1]; column++, place++) {
      const value = cells.value(row, column);
      if (!isNaN(value)) setPixel(data, place, cells.colour(value, row));
    }
  }
  painter.cells(
    ...cornerOf(layout, rows[0], columns[0]),
    raster.width * layout.wide,
    raster.height * layout.high,
    raster,
  );
}

function paintCell(
  painter: Painter,
  { wide, high }: Layout,
  cells: Cells,
  row: number,
  column: number,
  x: number,
  y: number,
): void {
  const value = cells.value(row, column),
    free = "free" in cells.gap ? cells.gap.free : null;
  const [w, h] = [wide - (free ?? 0), high - (free ?? 0)];
  if (isNaN(value)) {
    if (cells.empty && free !== null) painter.rect(x, y, w, h, cells.empty);
    return;
  }
  const hatched = cells.hatched(value, row, column);
  if (free === null && !hatched && wide < TINY) return; // most of them
  const colour = cells.colour(value, row),
    { from, size, text } = cells.number;
  if (free !== null) painter.rect(x, y, w, h, css(colour));
  if (hatched) painter.hatch(x, y, w, h, hatching(contrast(colour)));
  const number = wide >= from && high >= 16 ? text(value) : null;
  if (number !== null)
    painter.text(x + w / 2, y + high / 2 + 0.35 * size, number, { size, align: "center", colour: contrast(colour) });
}

function paintLines(
  painter: Painter,
  ink: Ink,
  layout: Layout,
  rows: Span,
  columns: Span,
  right: number,
  bottom: number,
): void {
  const { left, top } = layout;
  for (let column = columns[0] + 1; column < columns[1]; column++)
    painter.rect(cornerOf(layout, 0, column)[0] - 0.5, top, 1, bottom - top, ink.paper);
  for (let row = rows[0] + 1; row < rows[1]; row++)
    painter.rect(left, cornerOf(layout, row, 0)[1] - 0.5, right - left, 1, ink.paper);
}

/** The rows in view, each with its upper edge; what is drawn stays below the names of columns. */
export function eachRow(painter: Painter, layout: Layout, count: number, draw: (row: number, y: number) => void): void {
  const [first, end] = rowsIn(painter, layout, count);
  painter.clip(0, layout.top - 4, painter.width, painter.height - layout.top + 4, () => {
    for (let row = first; row < end; row++) draw(row, cornerOf(layout, row, 0)[1]);
  });
}

/** The columns in view, each with its middle; what is drawn stays right of the names of rows. */
export function eachColumn(
  painter: Painter,
  layout: Layout,
  count: number,
  draw: (column: number, x: number) => void,
): void {
  const [first, end] = columnsIn(painter, layout, count);
  painter.clip(layout.left - 4, 0, painter.width - layout.left + 4, layout.top, () => {
    for (let column = first; column < end; column++) draw(column, cornerOf(layout, 0, column)[0] + layout.wide / 2);
  });
}

/** Where not every name has room, those next to a marked one make room for it. */
export const isNamed = (place: number, every: number, marked: number[]) =>
  marked.includes(place) ||
  (place % every === 0 && !marked.some((each) => each >= 0 && Math.abs(each - place) < every));
