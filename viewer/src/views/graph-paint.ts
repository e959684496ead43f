/** Draws a graph: columns across, layers up, a line for each read or route, the answer on top. */

import { colourAt, css, paletteOf, share } from "../core/colour.ts";
import type { Graph, Line } from "../core/graph.ts";
import type { Ink } from "../core/ink.ts";
import type { Painter } from "../core/painter.ts";
import type { Scene } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import { label, number, signed as withSign } from "../core/tokens.ts";
import type { TokenInfo } from "../data/types.ts";
import { cut } from "./figure.ts";

const LEFT = 58, // for the names of layers
  TOP = 34, // for the answer
  BOTTOM = 26, // for the names of columns
  SLANTED = 76;
const WIDEST = 92, // a column, if there are many
  ACROSS = 720; // pixels that a few columns share
const NUMBERED = 24; // lines that have their value beside them
const MONO = { size: 12, mono: true };

/** Where what is drawn stands. */
export interface Plan {
  wide: number;
  high: number;
  size: [width: number, height: number];
  slanted: boolean;
  /** Of a column by its place, and of the point before a layer by its place, or after the last one. */
  x(column: number): number;
  y(level: number): number;
}

export function plan({ columns, layers }: Graph<unknown>, width: number): Plan {
  const most = Math.max(WIDEST, Math.min(260, ACROSS / columns.length));
  const wide = Math.min(most, (width - LEFT - 12) / columns.length),
    high = Math.max(12, Math.min(62, 400 / layers.length));
  const longest = Math.max(...columns.map((token) => label(token, 14).length)) * 7.3;
  const slanted = longest > wide - 4;
  const bottom = TOP + high * layers.length;
  return {
    wide,
    high,
    slanted,
    size: [width, bottom + (slanted ? SLANTED : BOTTOM)],
    x: (column) => LEFT + (column + 0.5) * wide,
    y: (level) => bottom - level * high,
  };
}

type Ends = [x1: number, y1: number, x2: number, y2: number];

const endsOf = ({ x, y }: Plan, { from, bottom, to, top }: Line<unknown>): Ends => [x(from), y(bottom), x(to), y(top)];

/** `marked` lines, the chosen and the pointed one, have a frame. */
export function paintGraph<Of>(
  painter: Painter,
  ink: Ink,
  { state }: Scene,
  graph: Graph<Of>,
  plan: Plan,
  chosen: Line<Of> | null,
  pointed: Line<Of> | null,
): void {
  const { lines, largest, signed } = graph,
    marked = [chosen, pointed].filter((each) => each !== null);
  paintFrame(painter, ink, state, graph, plan);
  for (const line of [...lines.toReversed(), ...marked]) {
    const size = share(Math.abs(line.value), largest, { curve: state.curve }),
      ends = endsOf(plan, line);
    const frame = line === pointed ? ink.ink : line === chosen ? ink.accent : null;
    if (frame) painter.line(ends, frame, 7 + 6 * size);
    if (frame) painter.line(ends, ink.paper, 3 + 6 * size);
    painter.line(ends, css(colourAt(paletteOf(state, signed), placeOf(line.value, size, signed))), 1 + 6 * size);
  }
  for (const line of lines) {
    const [x1, y1, x2, y2] = endsOf(plan, line);
    painter.circle(x1, y1, 4, ink.ink);
    painter.circle(x2, y2, 4, ink.ink);
  }
  const taken: Box[] = [];
  for (const line of lines.length <= NUMBERED ? lines : marked) {
    const text = (signed ? withSign : number)(line.value),
      style = { size: 11, colour: line === chosen ? ink.accent : ink.ink };
    const box = freeBox(endsOf(plan, line), painter.measure(text, style) + 4, taken);
    taken.push(box);
    painter.rect(...box, ink.paper);
    painter.text(box[0] + 2, box[1] + 11, text, style);
  }
}

/** In the palette: the weakest line can be seen, too. */
export function placeOf(value: number, size: number, signed: boolean): number {
  const seen = 0.2 + 0.8 * size;
  return signed ? 0.5 + (Math.sign(value) * seen) / 2 : seen;
}

/** Layers, names of columns, the answer, and the way of each column's state through the layers, as far as it is followed. */
function paintFrame(painter: Painter, ink: Ink, state: State, graph: Graph<unknown>, plan: Plan): void {
  const { layers, columns, ways, says } = graph,
    { high, wide, x, y, size } = plan,
    right = x(columns.length - 1) + wide / 2,
    every = Math.ceil(14 / high);
  layers.forEach((layer, place) => {
    painter.line([LEFT, y(place), right, y(place)], ink.line);
    if (place % every === 0)
      painter.text(LEFT - 8, y(place + 0.5) + 4, `layer ${layer}`, { size: 11, colour: ink.muted, align: "right" });
  });
  for (const [column, level] of ways) painter.line([x(column), y(0), x(column), y(level)], ink.faint, 1, [2, 3]);
  columns.forEach((token, column) => {
    const isUsed = ways.has(column);
    const colour = has(token, state.token) ? ink.accent : isUsed ? ink.ink : ink.faint;
    const style = { ...MONO, colour, bold: isUsed };
    if (plan.slanted) painter.text(x(column) - 3, y(0) + 12, label(token, 12), { ...style, turn: 50 });
    else painter.text(x(column), y(0) + 18, label(token, 14), { ...style, align: "center" });
  });
  const style = { size: 14, bold: true, colour: ink.ink },
    at = x(says.column);
  const room = size[0] - at;
  painter.text(at, 18, cut(painter, says.text, 200, style), { ...style, align: room < 100 ? "right" : "center" });
}

const has = ({ members, position }: TokenInfo, wanted: number | null) =>
  wanted !== null && (members ?? [position]).includes(wanted);

type Box = [x: number, y: number, width: number, height: number];

/** For a number on a line: on its upper half, or further along where another number stands there. */
function freeBox([x1, y1, x2, y2]: Ends, width: number, taken: Box[]): Box {
  const boxes = [0.62, 0.4, 0.8, 0.25].map((part): Box => {
    return [x1 + (x2 - x1) * part - width / 2, y1 + (y2 - y1) * part - 8, width, 14];
  });
  const meets = ([x, y, wide, high]: Box) =>
    taken.some(([left, top, w, h]) => x < left + w && left < x + wide && y < top + h && top < y + high);
  return boxes.find((box) => !meets(box)) ?? boxes[0];
}

const REACH = 10; // pixels from a line that still mean it

/** The line under a point. */
export function lineAt<Of>({ lines }: Graph<Of>, plan: Plan, x: number, y: number): Line<Of> | null {
  const away = (line: Line<Of>) => {
    const [x1, y1, x2, y2] = endsOf(plan, line);
    const along = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / ((x2 - x1) ** 2 + (y2 - y1) ** 2);
    const part = Math.min(1, Math.max(0, along));
    return Math.hypot(x1 + part * (x2 - x1) - x, y1 + part * (y2 - y1) - y);
  };
  const near = lines.map((line) => [away(line), line] as const).filter(([distance]) => distance <= REACH);
  return near.sort(([a], [b]) => a - b)[0]?.[1] ?? null;
}
