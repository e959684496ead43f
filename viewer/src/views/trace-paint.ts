/** Draws what was read, traced back from the predicted token: tokens across, layers up, a line for each read. */

import { colourAt, css, paletteOf, share } from "../core/colour.ts";
import type { Ink } from "../core/ink.ts";
import type { Painter } from "../core/painter.ts";
import { promptText } from "../core/prompt-text.ts";
import { tokenIndex, type Scene } from "../core/scene.ts";
import { label, number } from "../core/tokens.ts";
import type { Edge, Trace } from "../core/trace.ts";
import { predicted } from "../core/words.ts";
import { plainToken } from "../data/cube.ts";
import type { Run, TokenInfo } from "../data/types.ts";
import { cut } from "./figure.ts";

const LEFT = 58, // for the names of layers
  TOP = 34, // for the answer
  BOTTOM = 26, // for the names of tokens
  SLANTED = 76;
const FEW = 48; // tokens that are all named; of more, those that are reached
const NUMBERED = 24; // edges that have their value beside them
const MONO = { size: 12, mono: true };

/** What is drawn, and where. */
export interface Plan {
  columns: TokenInfo[];
  /** Layers of the run, as many as there are lines between. */
  layers: number[];
  wide: number;
  high: number;
  size: [width: number, height: number];
  slanted: boolean;
  /** Of a position, and of the point before a layer (by its place), or after the last one. */
  x(position: number): number;
  y(level: number): number;
}

export function plan({ run }: Scene, found: Trace, width: number): Plan {
  const { layers } = run,
    columns = columnsOf(run, found);
  const wide = Math.min(92, (width - LEFT - 12) / columns.length),
    high = Math.max(12, Math.min(62, 400 / layers.length));
  const longest = Math.max(...columns.map((token) => label(token, 14).length)) * 7.3;
  const slanted = longest > wide - 4;
  const places = new Map(columns.flatMap((token, i) => (token.members ?? [token.position]).map((each) => [each, i])));
  const bottom = TOP + high * layers.length;
  return {
    columns,
    layers,
    wide,
    high,
    slanted,
    size: [width, bottom + (slanted ? SLANTED : BOTTOM)],
    x: (position) => LEFT + (places.get(position)! + 0.5) * wide,
    y: (level) => bottom - level * high,
  };
}

/** Tokens that have been there when the position read, all of them or those that are reached. */
function columnsOf(run: Run, { start, edges, reached }: Trace): TokenInfo[] {
  const read = new Set(edges.map(({ from }) => from));
  const masked = run.tokens.filter(({ position }) => position <= start);
  const named =
    masked.length <= FEW ? masked : masked.filter((token) => read.has(token) || reached.has(token.position));
  const infos = new Map(promptText(run).tokens.map(({ info }) => [info.position, info]));
  const others = [...reached.keys()].filter((position) => tokenIndex(run, position) < 0);
  return [...named, ...others.map((position) => infos.get(position) ?? plainToken(position, ""))].sort(
    (a, b) => a.position - b.position,
  );
}

type Line = [x1: number, y1: number, x2: number, y2: number];

/** From the token before the layer up to the position that reads it, after the layer. */
export function lineOf({ layers, x, y }: Plan, { layer, from, to }: Edge): Line {
  const place = layers.indexOf(layer);
  return [x(from.position), y(place), x(to), y(place + 1)];
}

export function paintTrace(
  painter: Painter,
  ink: Ink,
  scene: Scene,
  found: Trace,
  plan: Plan,
  chosen: Edge | null,
  pointed: Edge | null,
): void {
  const palette = paletteOf(scene.state, false);
  paintFrame(painter, ink, scene, found, plan);
  for (const edge of [...found.edges.toReversed(), ...[chosen, pointed].filter((each) => each !== null)]) {
    const size = share(Math.abs(edge.value), found.largest, { curve: scene.state.curve });
    const frame = edge === pointed ? ink.ink : edge === chosen ? ink.accent : null;
    if (frame) painter.line(lineOf(plan, edge), frame, 7 + 6 * size);
    if (frame) painter.line(lineOf(plan, edge), ink.paper, 3 + 6 * size);
    painter.line(lineOf(plan, edge), css(colourAt(palette, 0.2 + 0.8 * size)), 1 + 6 * size);
  }
  for (const edge of found.edges) {
    const [x1, y1, x2, y2] = lineOf(plan, edge);
    painter.circle(x1, y1, 4, ink.ink);
    painter.circle(x2, y2, 4, ink.ink);
  }
  for (const edge of found.edges.length <= NUMBERED ? found.edges : [chosen, pointed].filter((each) => each !== null))
    paintNumber(painter, ink, lineOf(plan, edge), edge === chosen ? ink.accent : ink.ink, number(edge.value));
}

/** Layers, names of tokens, the answer, and the way of each token's state through the layers, as far as it is followed. */
function paintFrame(painter: Painter, ink: Ink, { run, state }: Scene, found: Trace, plan: Plan): void {
  const { layers, columns, high, x, y, size } = plan,
    every = Math.ceil(14 / high);
  layers.forEach((layer, place) => {
    painter.line([LEFT, y(place), size[0], y(place)], ink.line);
    if (place % every === 0)
      painter.text(LEFT - 8, y(place + 0.5) + 4, `layer ${layer}`, { size: 11, colour: ink.muted, align: "right" });
  });
  const used = new Map<number, number>();
  for (const { from } of found.edges) used.set(from.position, 0);
  for (const [position, level] of found.reached) used.set(position, level);
  for (const { layer, from } of found.edges)
    used.set(from.position, Math.max(used.get(from.position)!, layers.indexOf(layer)));
  const ways = [...used].filter(([position]) => columns.some((token) => has(token, position)));
  for (const [position, level] of ways) painter.line([x(position), y(0), x(position), y(level)], ink.faint, 1, [2, 3]);
  const shown = new Set(ways.map(([position]) => position));
  for (const token of columns) {
    const isUsed = (token.members ?? [token.position]).some((each) => shown.has(each));
    const colour = has(token, state.token) ? ink.accent : isUsed ? ink.ink : ink.faint;
    const style = { ...MONO, colour, bold: isUsed };
    if (plan.slanted) painter.text(x(token.position) - 3, y(0) + 12, label(token, 12), { ...style, turn: 50 });
    else painter.text(x(token.position), y(0) + 18, label(token, 14), { ...style, align: "center" });
  }
  const answer = predicted(run, state.step)?.text;
  const says = state.query === null && answer !== undefined ? `→ ${label(plainToken(0, answer), 20)}` : "reads";
  const style = { size: 14, bold: true, colour: ink.ink };
  const room = size[0] - x(found.start);
  const text = cut(painter, says.replace("→ ␣", "→ "), 200, style);
  painter.text(x(found.start), 18, text, { ...style, align: room < 100 ? "right" : "center" });
}

const has = ({ members, position }: TokenInfo, wanted: number | null) =>
  wanted !== null && (members ?? [position]).includes(wanted);

/** Beside the upper half of the line. */
function paintNumber(painter: Painter, ink: Ink, [x1, y1, x2, y2]: Line, colour: string, text: string): void {
  const style = { size: 11, colour };
  const [x, y] = [x1 + (x2 - x1) * 0.62, y1 + (y2 - y1) * 0.62],
    width = painter.measure(text, style);
  painter.rect(x - width / 2 - 2, y - 8, width + 4, 14, ink.paper);
  painter.text(x, y + 3, text, { ...style, align: "center" });
}

const REACH = 10; // pixels from a line that still mean it

/** The edge under a point. */
export function edgeAt(found: Trace, plan: Plan, x: number, y: number): Edge | null {
  const away = (edge: Edge) => {
    const [x1, y1, x2, y2] = lineOf(plan, edge);
    const along = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / ((x2 - x1) ** 2 + (y2 - y1) ** 2);
    const part = Math.min(1, Math.max(0, along));
    return Math.hypot(x1 + part * (x2 - x1) - x, y1 + part * (y2 - y1) - y);
  };
  const near = found.edges.map((edge) => [away(edge), edge] as const).filter(([distance]) => distance <= REACH);
  return near.sort(([a], [b]) => a - b)[0]?.[1] ?? null;
}
