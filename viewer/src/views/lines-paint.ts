/** Draws lines over the layers, and says which line is which. */

import { isSame } from "../core/align.ts";
import { share } from "../core/colour.ts";
import { headNumber } from "../core/head-matrix.ts";
import { LIGHT, type Ink } from "../core/ink.ts";
import { brief, inText, isOfModel, metricOf, titleOf } from "../core/metrics.ts";
import type { Painter } from "../core/painter.ts";
import { noiseFloor, tokenIndex, type Scene } from "../core/scene.ts";
import { apart, type Series, type Target } from "../core/series.ts";
import { label, number } from "../core/tokens.ts";
import { crossing, modelName, variantName } from "../core/words.ts";
import { ticks } from "./figure.ts";
import { headColour, nthColour } from "./head-marks.ts";

/** Of the second, third, ... run; the run in front has whole lines. */
const DASHES = [[], [5, 3], [2, 3], [8, 3, 2, 3]];

/** What is drawn: the lines, their scale, and where they are. */
export interface Plot {
  series: Series[];
  layers: number[];
  largest: number;
  x: (layer: number) => number;
  y: (value: number) => number;
  left: number;
  right: number;
  top: number;
  bottom: number;
}

const layersOf = (series: Series[]) => [...new Set(series.flatMap(({ layers }) => layers))].sort((a, b) => a - b);

/** Noise floors are those of the line's own variant, not of the one on the heat map. */
export const floorOf = ({ run, variant }: Series, metric: Scene["state"]["metric"], layer?: number) =>
  noiseFloor(run, { metric, variant }, layer);

export function peakLayer({ layers, values }: Series): number {
  return layers[values.reduce((best, value, place) => (value > values[best] || isNaN(values[best]) ? place : best), 0)];
}

export function nameOf({ variant, runPlace, named }: Series, runs: number): string {
  return (named ? label(named, 12) : variantName(variant)) + (runs > 1 && runPlace > 0 ? ` (${runPlace + 1})` : "");
}

/** Full is ink, Attn grey, a head or a further token its colour; the head on the page, if it has none of its own, is the selection. */
export function colourOf({ variant, also }: Series, { state, dark }: Scene, colours: Ink): string {
  const isDark = colours === LIGHT ? false : dark;
  if (also) return nthColour(also.nth, isDark);
  const head = headNumber(variant);
  if (head !== null) return headColour(state, head, isDark) ?? colours.accent;
  const name = variant.slice(crossing(variant).length);
  return name === "Full" ? colours.ink : name === "Attn" ? colours.faint : colours.muted;
}

export const dashOf = ({ runPlace }: Series) => DASHES[Math.min(runPlace, DASHES.length - 1)];

/** A piece of a line, as a background. */
export function swatch(colour: string, dash: number[]): string {
  let at = 0;
  const stops = dash.map((length, i) => `${i % 2 ? "transparent" : colour} ${at}px ${(at += length)}px`);
  return stops.length ? `repeating-linear-gradient(to right, ${stops.join(", ")})` : colour;
}

/** Which run is which line, whether they speak of the same token and in the same unit; sentences. */
export function others({ runs, state }: Scene, { token, positions }: Target): string[] {
  const metric = metricOf(runs[0], state);
  const units =
    isOfModel(metric) && new Set(runs.map(modelName)).size > 1
      ? [`Models differ: their ${inText(brief(metric))} is in different units.`]
      : [];
  return [
    ...units,
    ...runs.slice(1).map((run, place) => {
      const there = run.tokens[tokenIndex(run, positions[place + 1])];
      const same = there && isSame(runs[0], token, run, there);
      const what =
        !there || !run.steps.includes(state.step)
          ? "no value here"
          : same
            ? there.position === token.position
              ? ""
              : `at position ${there.position}`
            : token.kind === "image" && there.kind === "image"
              ? "another picture"
              : `here ${label(there, 20)}`;
      return `(${place + 2}) dashed: ${run.name}${what && `, ${what}`}`;
    }),
  ];
}

interface Area {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** With `crosshair`, the layer that is pointed at. */
export function drawLines(
  painter: Painter,
  colours: Ink,
  scene: Scene,
  series: Series[],
  area: Area,
  crosshair: number | null,
): Plot {
  const plot = layOut(painter, scene, series, area);
  drawAxes(painter, colours, scene, plot, area);
  drawFloors(painter, colours, scene, plot);
  const { state } = scene,
    { layers, top, bottom, x } = plot;
  const chosen = (layer: number | null, colour: string) => {
    if (layer === null || !layers.includes(layer)) return;
    const at = Math.round(x(layer)) + 0.5;
    painter.line([at, top - 6, at, bottom], colour, 1.5);
  };
  chosen(state.layer, colours.accent);
  if (crosshair !== state.layer) chosen(crosshair, colours.muted);
  // The run in front is drawn last, on top, and Full on top of it.
  for (const line of [...series].reverse()) drawLine(painter, colours, scene, plot, line, crosshair);
  nameLines(painter, colours, scene, plot);
  return plot;
}

const small = (colours: Ink) => ({ size: 11, colour: colours.muted });

function layOut(painter: Painter, { runs, state }: Scene, series: Series[], area: Area): Plot {
  const layers = layersOf(series);
  const largest = series.reduce((most, { values }) => values.reduce((m, value) => (value > m ? value : m), most), 0);
  const names = series.map((line) => nameOf(line, runs.length));
  const width = (text: string, bold = false) => painter.measure(text, { size: 11, bold });
  const left = area.x + 10 + Math.max(...ticks(largest, 4).map((mark) => width(number(mark))));
  const right = area.x + area.width - 14 - Math.max(0, ...names.map((name) => width(name, true)));
  const [top, bottom] = [area.y + 20, area.y + area.height - 32];
  const [first, last] = [layers[0], layers[layers.length - 1]];
  const x = (layer: number) =>
    last === first ? (left + right) / 2 : left + 6 + ((layer - first) / (last - first)) * (right - left - 12);
  const { curve } = state;
  const y = (value: number) => bottom - share(value, largest, { curve }) * (bottom - top);
  return { series, layers, largest, x, y, left, right, top, bottom };
}

function drawAxes(painter: Painter, colours: Ink, { run, state }: Scene, plot: Plot, area: Area): void {
  const { layers, largest, left, right, bottom, x, y } = plot,
    style = small(colours);
  for (const mark of ticks(largest, 4)) {
    painter.line([left, Math.round(y(mark)) + 0.5, right, Math.round(y(mark)) + 0.5], colours.line);
    painter.text(left - 5, y(mark) + 4, number(mark), { ...style, align: "right" });
  }
  const title = titleOf(run, state) + (state.curve === "sqrt" ? ", square-root scale" : "");
  painter.text(area.x, area.y + 9, title, style);
  const every = Math.ceil((layers.length * 22) / Math.max(1, right - left));
  layers.forEach((layer, place) => {
    if (place % every === 0) painter.text(x(layer), bottom + 14, String(layer), { ...style, align: "center" });
  });
  painter.text((left + right) / 2, bottom + 28, "layer", { ...style, align: "center" });
}

/** Below its band a line cannot be told from 0. Heads have a floor of their own, mostly a lower one. */
function drawFloors(painter: Painter, colours: Ink, { state }: Scene, plot: Plot): void {
  const { series, largest, left, right, bottom, y } = plot;
  for (const floor of new Set(series.map((line) => floorOf(line, state.metric)))) {
    const high = bottom - y(Math.min(floor, largest));
    if (high >= 1) painter.hatch(left, bottom - high, right - left, high, colours.line);
    if (high < 16) continue;
    painter.text(right - 4, bottom - high + 12, "noise floor", { ...small(colours), size: 10, align: "right" });
  }
}

function drawLine(
  painter: Painter,
  colours: Ink,
  scene: Scene,
  { x, y }: Plot,
  line: Series,
  crosshair: number | null,
): void {
  const colour = colourOf(line, scene, colours),
    { values } = line;
  const points = line.layers.flatMap((layer, place) => [x(layer), isNaN(values[place]) ? NaN : y(values[place])]);
  painter.line(points, colour, line.variant === scene.state.variant && !line.also ? 2.5 : 1.5, dashOf(line));
  line.layers.forEach((layer, place) => {
    const isAlone = isNaN(values[place - 1] ?? NaN) && isNaN(values[place + 1] ?? NaN);
    if (isNaN(values[place]) || !(isAlone || layer === crosshair)) return;
    painter.circle(x(layer), y(values[place]), 3, colour);
  });
}

/** At the ends of the lines, where there is room. */
function nameLines(painter: Painter, colours: Ink, scene: Scene, { series, x, y, right, top, bottom }: Plot): void {
  const ends = series.map(({ layers: own, values }) => {
    const place = values.findLastIndex((value) => !isNaN(value));
    return place < 0 ? null : ([x(own[place]), y(values[place])] as const);
  });
  const gap = Math.min(13, (bottom - top) / Math.max(1, ends.length - 1));
  const heights = apart(
    ends.map((end) => end?.[1] ?? bottom),
    gap,
    top,
    bottom,
  );
  series.forEach((line, place) => {
    const end = ends[place];
    if (!end) return;
    const colour = line.variant.endsWith("Attn") ? colours.muted : colourOf(line, scene, colours);
    if (Math.abs(heights[place] - end[1]) > 5)
      painter.line([end[0] + 3, end[1], right + 8, heights[place]], colours.line);
    const style = { size: 11, bold: line.variant === scene.state.variant && !line.also, colour };
    painter.text(right + 10, heights[place] + 4, nameOf(line, scene.runs.length), style);
  });
}
