/** Draws a sheet, or the part of it that is in view, and its colour bar; the same for the screen and for export. */

import { isLight, paletteOf, table, type Rgb } from "../core/colour.ts";
import type { Ink } from "../core/ink.ts";
import { setPixel, type Painter } from "../core/painter.ts";
import { isNoise, type Hover } from "../core/scene.ts";
import { columnOf, largestFor, placeOf, type Sheet } from "../core/sheet.ts";
import type { State } from "../core/state.ts";
import { label } from "../core/tokens.ts";
import type { TokenInfo } from "../data/types.ts";

export const CHARACTER = 6.7; // width of a monospace character at LABEL pixels
export const LABEL = 11;
export const SLANT = -60;
export const LONGEST = 13;
const HALF = 9; // of two names in one
export const NUMBER_WIDTH = 40;
const EDGE = 6; // pixels of a cell with a number that can be hatched

/** Where things are: `left` and `top` are the sticky headers; rows and columns are those on the screen. */
export interface Geometry {
  sheet: Sheet;
  byLayers: boolean;
  rows: number;
  columns: number;
  cellWidth: number;
  cellHeight: number;
  left: number;
  top: number;
  slanted: boolean;
  /** All of it, headers included. */
  width: number;
  height: number;
}

/** With `among`, cells and headers are as large as in those other sheets. */
export function geometry(
  sheet: Sheet,
  rows: State["rows"],
  width: number,
  height: number,
  smallest = { width: 16, layer: 12, token: 18 },
  among = [sheet],
): Geometry {
  const byLayers = rows === "layers";
  const most = (of: (sheet: Sheet) => number) => Math.max(...among.map(of));
  const longest = CHARACTER * most(longestName);
  const tokens = most(({ columns }) => columns.length),
    layers = most((each) => each.layers.length);
  const [down, across] = byLayers ? [layers, tokens] : [tokens, layers];
  const digits = most(({ columns }) => String(columns.at(-1)!.positions[0]).length);
  const left = byLayers ? 46 : Math.ceil(longest + digits * CHARACTER + 26);
  const fit = Math.floor((width - left - 2) / across);
  let cellWidth = Math.max(smallest.width, Math.min(byLayers ? 84 : 56, fit));
  const slanted = byLayers && longest + 6 > cellWidth;
  const overhang = slanted ? Math.ceil(longest * Math.cos((SLANT * Math.PI) / 180)) : 0;
  if (slanted && cellWidth > smallest.width) {
    cellWidth = Math.max(
      smallest.width,
      Math.min(cellWidth, Math.floor((width - left - overhang + cellWidth / 2) / across)),
    );
  }
  const top = slanted ? Math.ceil(longest * Math.sin((-SLANT * Math.PI) / 180)) + 16 : 24;
  const tallest = byLayers ? (down <= 8 ? 40 : 28) : 22;
  const cellHeight = Math.max(
    byLayers ? smallest.layer : smallest.token,
    Math.min(tallest, Math.floor((height - top) / down)),
  );
  const [ownRows, ownColumns] = byLayers
    ? [sheet.layers.length, sheet.columns.length]
    : [sheet.columns.length, sheet.layers.length];
  return {
    sheet,
    byLayers,
    rows: ownRows,
    columns: ownColumns,
    cellWidth,
    cellHeight,
    left,
    top,
    slanted,
    width: left + ownColumns * cellWidth + Math.max(2, overhang - Math.floor(cellWidth / 2)),
    height: top + ownRows * cellHeight + 2,
  };
}

const longestName = (sheet: Sheet) =>
  sheet.columns.reduce((most, _, column) => Math.max(most, columnName(sheet, column).length), 3);

/** Place in the sheet of a cell on the screen: the last layer is on top, or on the right. */
export function layerAt(g: Geometry, row: number, column: number): number {
  return g.byLayers ? g.rows - 1 - row : column;
}
export const columnAt = (g: Geometry, row: number, column: number) => (g.byLayers ? column : row);
export const cellOf = (g: Geometry, layer: number, column: number) =>
  g.byLayers ? { row: layer < 0 ? -1 : g.rows - 1 - layer, column } : { row: column, column: layer };

const names = new WeakMap<TokenInfo, string>();

/** A column's name in its header. */
export function columnName(sheet: Sheet, column: number): string {
  const { token, positions, other } = sheet.columns[column];
  if (other) return `${label(token, HALF)}→${label(other, HALF)}`;
  if (positions.length > 1) return `▦ image ${token.image ?? 0}`;
  let name = names.get(token);
  if (name === undefined) names.set(token, (name = label(token, LONGEST)));
  return name;
}

export interface Marks {
  token: number | null;
  /** More selected tokens. */
  also: number[];
  layer: number | null;
  hover: Hover;
}

/** The part of the sheet that starts at `x`, `y` of its cells, with its headers, in the upper left of the painter. */
export function paintSheet(
  painter: Painter,
  g: Geometry,
  state: State,
  ink: Ink,
  x: number,
  y: number,
  marks: Marks,
): void {
  const { cellWidth, cellHeight, left, top } = g;
  const columns = span(x, painter.width - left, cellWidth, g.columns);
  const rows = span(y, painter.height - top, cellHeight, g.rows);
  const originX = left - x,
    originY = top - y;
  const wide = Math.min(painter.width - left, g.columns * cellWidth - x),
    high = Math.min(painter.height - top, g.rows * cellHeight - y);
  painter.rect(0, 0, painter.width, painter.height, ink.paper);
  if (wide > 0 && high > 0) {
    painter.clip(left, top, wide, high, () => {
      painter.rect(left, top, wide, high, emptyColour(g.sheet, ink));
      paintCells(painter, g, state, ink, rows, columns, originX, originY);
      paintMarks(painter, g, ink, marks, originX, originY);
    });
  }
  paintColumnNames(painter, g, ink, columns, originX, marks);
  paintRowNames(painter, g, ink, rows, originY, marks);
  painter.text(left - 8, top - 6, g.byLayers ? "layer" : "layer →", { size: LABEL, colour: ink.muted, align: "right" });
}

export type Span = [first: number, end: number];

/** Which of `count` cells in a row are in view, of those that `room` pixels show after `scroll`. */
export function span(scroll: number, room: number, cell: number, count: number): Span {
  return [Math.max(0, Math.floor(scroll / cell)), Math.min(count, Math.ceil((scroll + room) / cell))];
}

function paintCells(
  painter: Painter,
  g: Geometry,
  state: State,
  ink: Ink,
  [r0, r1]: Span,
  [c0, c1]: Span,
  x: number,
  y: number,
): void {
  if (r1 <= r0 || c1 <= c0) return;
  const { sheet, cellWidth: w, cellHeight: h } = g;
  const colours = table(paletteOf(state, sheet.signed)),
    { curve, least } = state,
    scaling = { curve, least };
  const raster = new ImageData(c1 - c0, r1 - r0),
    { data } = raster;
  const places = new Uint8Array(raster.width * raster.height);
  const value = (row: number, column: number) =>
    sheet.values[layerAt(g, row, column) * sheet.columns.length + columnAt(g, row, column)];
  for (let row = r0, at = 0; row < r1; row++) {
    for (let column = c0; column < c1; column++, at++) {
      const here = value(row, column);
      if (isNaN(here)) continue; // transparent: the empty colour shows
      const place = placeOf(sheet, here, layerAt(g, row, column), columnAt(g, row, column), scaling);
      places[at] = Math.round(place * 255);
      setPixel(data, at, colours[places[at]]);
    }
  }
  painter.cells(x + c0 * w, y + r0 * h, raster.width * w, raster.height * h, raster);
  const onColour = (row: number, column: number) => contrast(colours[places[(row - r0) * raster.width + column - c0]]);
  const numbers = w >= NUMBER_WIDTH && h >= 16;
  paintHatches(painter, g, [r0, r1], [c0, c1], x, y, value, onColour, numbers);
  if (w >= 20 && h >= 12) {
    for (let column = c0 + 1; column < c1; column++)
      painter.rect(x + column * w - 0.5, y + r0 * h, 1, (r1 - r0) * h, ink.paper);
    for (let row = r0 + 1; row < r1; row++) painter.rect(x + c0 * w, y + row * h - 0.5, (c1 - c0) * w, 1, ink.paper);
  }
  if (!numbers) return;
  for (let row = r0; row < r1; row++) {
    for (let column = c0; column < c1; column++) {
      const here = value(row, column);
      if (isNaN(here)) continue;
      if (least && Math.abs(here) < least * largestFor(sheet, layerAt(g, row, column), columnAt(g, row, column)))
        continue;
      painter.text(x + (column + 0.5) * w, y + (row + 0.5) * h + 3.5, short(here), {
        size: 10,
        align: "center",
        colour: onColour(row, column),
      });
    }
  }
}

/** Position 0 outside of the scale, and what cannot be told from rounding; neighbours in a row at once. */
function paintHatches(
  painter: Painter,
  g: Geometry,
  [r0, r1]: Span,
  [c0, c1]: Span,
  x: number,
  y: number,
  value: (row: number, column: number) => number,
  onColour: (row: number, column: number) => string,
  numbers: boolean,
): void {
  const { sheet } = g;
  if (sheet.outside < 0 && !sheet.below) return;
  for (let row = r0; row < r1; row++) {
    for (let column = c0; column < c1; column++) {
      const hatched = (c: number) => {
        const here = value(row, c);
        return (
          (columnAt(g, row, c) === sheet.outside && !isNaN(here)) || isNoise(here, sheet.floors[layerAt(g, row, c)])
        );
      };
      if (!hatched(column)) continue;
      const start = column,
        colour = onColour(row, column);
      while (column + 1 < c1 && hatched(column + 1) && onColour(row, column + 1) === colour) column++;
      const [left, top, end] = [x + start * g.cellWidth, y + row * g.cellHeight, x + (column + 1) * g.cellWidth];
      if (!numbers) painter.hatch(left, top, end - left, g.cellHeight, hatching(colour));
      else
        for (let at = left; at < end; at += g.cellWidth) painter.hatch(at, top, EDGE, g.cellHeight, hatching(colour)); // not over a number
    }
  }
}

/** The middle of a difference is nearly white, so what is empty is darker there. */
export const emptyColour = ({ signed }: { signed: boolean }, ink: Ink) => (signed ? ink.line : ink.empty);

const BLACK = "#000000";
export const hatching = (text: string) => (text === BLACK ? "#00000066" : "#ffffff80");
export const contrast = (colour: Rgb) => (isLight(colour) ? BLACK : "#ffffff");

/** Two or three digits, for inside of a cell. */
export function short(value: number): string {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 0.001 && size < 10000) return String(Number(value.toPrecision(size >= 0.1 ? 3 : 2)));
  return value.toExponential(0).replace("e-", "e−").replace("e+", "e");
}

function paintMarks(painter: Painter, g: Geometry, ink: Ink, marks: Marks, x: number, y: number): void {
  const { cellWidth: w, cellHeight: h, sheet } = g;
  const lines = (token: number | null, layer: number | null, colour: string, line: number, cellLine: number) => {
    const { row, column } = cellOf(
      g,
      layer === null ? -1 : sheet.layers.indexOf(layer),
      columnOf(sheet.columns, token),
    );
    if (column >= 0) painter.rect(x + column * w + 0.5, y + 0.5, w - 1, g.rows * h - 1, null, colour, line);
    if (row >= 0) painter.rect(x + 0.5, y + row * h + 0.5, g.columns * w - 1, h - 1, null, colour, line);
    if (cellLine && row >= 0 && column >= 0)
      painter.rect(
        x + column * w + cellLine / 2,
        y + row * h + cellLine / 2,
        w - cellLine,
        h - cellLine,
        null,
        colour,
        cellLine,
      );
  };
  const { hover } = marks;
  lines(hover.token, hover.layer, ink.paper, 3, 0); // a halo: the line is seen on every colour
  lines(hover.token, hover.layer, ink.ink, 1, 1);
  for (const token of marks.also) {
    lines(token, null, ink.paper, 3.5, 0);
    lines(token, null, ink.accent, 1, 0);
  }
  lines(marks.token, marks.layer, ink.paper, 3.5, 0);
  lines(marks.token, marks.layer, ink.accent, 1.5, 3);
}

function paintColumnNames(painter: Painter, g: Geometry, ink: Ink, [c0, c1]: Span, x: number, marks: Marks): void {
  const { sheet, cellWidth: w, top } = g;
  const selected = g.byLayers ? columnOf(sheet.columns, marks.token) : sheet.layers.indexOf(marks.layer ?? -1);
  const hovered = g.byLayers
    ? columnOf(sheet.columns, marks.hover.token)
    : sheet.layers.indexOf(marks.hover.layer ?? -1);
  const every = g.byLayers ? Math.ceil(12 / w) : Math.ceil(22 / w);
  painter.clip(g.left - (g.slanted ? 4 : 0), 0, painter.width - g.left + 4, top, () => {
    for (let column = c0; column < c1; column++) {
      const marked = column === selected || column === hovered;
      if (column % every && !marked) continue;
      const text = g.byLayers ? columnName(sheet, column) : String(sheet.layers[column]);
      const muted = g.byLayers && (sheet.columns[column].token.kind === "special" || !hasValue(sheet, column));
      const colour = column === selected ? ink.accent : muted && column !== hovered ? ink.muted : ink.ink;
      const style = { size: LABEL, mono: g.byLayers, bold: marked, colour };
      const middle = x + (column + 0.5) * w;
      if (g.slanted) painter.text(middle + 3, top - 5, text, { ...style, turn: SLANT });
      else painter.text(middle, top - 7, text, { ...style, align: "center" });
    }
  });
}

function paintRowNames(painter: Painter, g: Geometry, ink: Ink, [r0, r1]: Span, y: number, marks: Marks): void {
  const { sheet, cellHeight: h, left } = g;
  const layer = (row: number) => sheet.layers[g.rows - 1 - row];
  const every = Math.ceil(11 / h);
  const [selectedToken, hoveredToken] = [
    columnOf(sheet.columns, marks.token),
    columnOf(sheet.columns, marks.hover.token),
  ];
  painter.clip(0, g.top, left, painter.height - g.top, () => {
    for (let row = r0; row < r1; row++) {
      const selected = g.byLayers ? layer(row) === marks.layer : row === selectedToken;
      const hovered = g.byLayers ? layer(row) === marks.hover.layer : row === hoveredToken;
      if (row % every && !selected && !hovered) continue;
      const base = y + (row + 0.5) * h + 4;
      const bold = selected || hovered;
      if (g.byLayers) {
        painter.text(left - 8, base, String(layer(row)), {
          size: LABEL,
          align: "right",
          bold,
          colour: selected ? ink.accent : ink.ink,
        });
        continue;
      }
      const { token, positions } = sheet.columns[row];
      const colour = selected ? ink.accent : token.kind === "special" || !hasValue(sheet, row) ? ink.muted : ink.ink;
      const digits = String(sheet.columns[sheet.columns.length - 1].positions[0]).length * CHARACTER;
      painter.text(8 + digits, base, String(positions[0]), {
        size: LABEL,
        align: "right",
        colour: selected ? ink.accent : ink.muted,
      });
      painter.text(left - 8, base, columnName(sheet, row), { size: LABEL, align: "right", mono: true, bold, colour });
    }
  });
}

function hasValue(sheet: Sheet, column: number): boolean {
  for (let place = column; place < sheet.values.length; place += sheet.columns.length)
    if (!isNaN(sheet.values[place])) return true;
  return false;
}
