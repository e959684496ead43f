/** One token's importance over the layers: Full, Attn and the chosen heads, of all shown runs. */

import { share } from "../core/colour.ts";
import { h, onKeys, same } from "../core/dom.ts";
import type { Line } from "../core/export.ts";
import { headMatrix, headNumber, strongestHeads } from "../core/head-matrix.ts";
import { ink, LIGHT, type Ink } from "../core/ink.ts";
import { CanvasPainter, type Drawing, type Painter } from "../core/painter.ts";
import { noiseFloor, sameToken, tokenIndex, type Scene, type View } from "../core/scene.ts";
import { apart, seriesOf, target, toggled, type Series } from "../core/series.ts";
import type { Store } from "../core/store.ts";
import { label, named, number } from "../core/tokens.ts";
import { crossing, isDifference, METRICS, modelName, variantName } from "../core/words.ts";
import type { TokenInfo } from "../data/types.ts";
import { captions, heading, ticks } from "./figure.ts";
import { headColour } from "./head-marks.ts";
import "./lines.css";

const HEIGHT = 210;
/** Of the second, third, ... run; the run in front has whole lines. */
const DASHES = [[], [5, 3], [2, 3], [8, 3, 2, 3]];

/** What is drawn: the lines, their scale, and where they are. */
interface Plot {
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

export class LinesView implements View {
  readonly element: HTMLElement;
  #store: Store;
  #scene: Scene | null = null;
  #shown: unknown[] = [];
  #width = 0; // as observed: asking the element would lay out the page in the middle of an update
  #plotted: Plot | null = null;
  #token: TokenInfo | null = null;
  #heads = "";

  #what = h("p.lines__what");
  #canvas = h("canvas", { role: "application", "aria-roledescription": "line plot", tabindex: 0 });
  #plot = h("div.lines__plot", {}, this.#canvas);
  #readout = h("div.lines__readout", { "aria-live": "polite" });
  #chosen = h("div.lines__heads");
  #note = h("p.lines__note");

  constructor(store: Store) {
    this.#store = store;
    this.element = h(
      "section.lines",
      { "aria-label": "Importance over layers" },
      h("div.lines__head", {}, h("h2", {}, "Over the layers"), this.#what),
      this.#plot,
      this.#readout,
      this.#chosen,
      this.#note,
    );
    this.#canvas.onpointermove = (event) => this.#hover(this.#layerAt(event.offsetX));
    this.#canvas.onpointerleave = () => this.#store.hover();
    this.#canvas.onclick = (event) => this.#choose(this.#layerAt(event.offsetX));
    onKeys(this.#canvas, (event) => this.#press(event));
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width === this.#width) return;
      this.#width = contentRect.width;
      this.#shown = [];
      if (this.#scene) this.update(this.#scene);
    }).observe(this.#plot);
  }

  update(scene: Scene): void {
    this.#scene = scene;
    const { runs, state, hover, dark } = scene;
    const found = target(scene);
    const { metric, variant, step, curve, compare, layer, heads } = state;
    const shown = [
      runs.map(({ id }) => id).join(),
      scene.run,
      compare,
      found?.token,
      found?.why,
      metric,
      variant,
      step,
      curve,
      layer,
      heads.join(),
      hover.layer,
      dark,
    ];
    if (same(shown, this.#shown)) return;
    this.#shown = shown;
    this.#token = found?.token ?? null;
    for (const part of [this.#plot, this.#readout]) part.hidden = !found;
    const strongest = isDifference(scene.state, runs) ? "Differs most: " : "Most important: "; // until another one is selected
    this.#what.textContent = found
      ? (found.why === "strongest" ? strongest : "") + named(found.token, 20)
      : "No token has a value at this step.";
    this.#chooser(scene);
    if (!found) return;
    const series = seriesOf(scene, found.token.position);
    this.#canvas.setAttribute(
      "aria-label",
      `${METRICS[metric]} of ${named(found.token)} over ${scene.run.layers.length} layers; left and right select a layer`,
    );
    this.#paint(scene, series);
    this.#say(scene, series);
    this.#note.replaceChildren(...others(scene, found.token).map((text) => h("span", { title: text }, text)));
  }

  #paint(scene: Scene, series: Series[]): void {
    const width = this.#width;
    if (!width) return;
    const height = Math.max(HEIGHT, 56 + 13 * series.length); // room for every line's name
    this.#canvas.style.height = `${height}px`;
    const painter = new CanvasPainter(this.#canvas, width, height, devicePixelRatio);
    this.#plotted = drawLines(
      painter,
      ink(scene.dark),
      scene,
      series,
      { x: 0, y: 4, width, height: height - 4 },
      scene.hover.layer ?? scene.state.layer,
    );
  }

  /** The numbers at the crosshair, or where the first line peaks. */
  #say(scene: Scene, series: Series[]): void {
    const { state, hover, dark, runs } = scene;
    const chosen = hover.layer ?? state.layer;
    const layer = chosen ?? peakLayer(series[0]);
    const parts = series.map((line) => {
      const mark = h("i");
      mark.style.background = swatch(colourOf(line, scene, ink(dark)), dashOf(line));
      const place = line.layers.indexOf(layer);
      const value = place < 0 ? NaN : line.values[place];
      const low = value < floorOf(line, state.metric);
      return h(
        "span",
        low ? { class: "muted", title: "below the noise floor" } : {},
        mark,
        `${nameOf(line, runs.length)} ${low ? "≈ " : ""}${number(value)}`,
      );
    });
    this.#readout.replaceChildren(h("span", {}, `${chosen === null ? "peak, layer" : "layer"} ${layer}:`), ...parts);
  }

  /** Which heads have a line: one button each, a select for one more, and the strongest three. */
  #chooser(scene: Scene): void {
    const { run, state, dark } = scene;
    const all = run.variants
      .filter((variant) => crossing(variant) === crossing(state.variant))
      .map(headNumber)
      .filter((head) => head !== null);
    const key = [run.id, state.heads.join(), crossing(state.variant), dark].join("|");
    if (key === this.#heads) return;
    this.#heads = key;
    this.#chosen.hidden = !all.length;
    const buttons = state.heads
      .filter((head) => all.includes(head))
      .map((head) => {
        const mark = h("i");
        mark.style.background = headColour(state, head, dark) ?? "";
        const drop = () => this.#store.set({ heads: toggled(this.#store.state.heads, head) });
        return h("button", { "aria-label": `Head ${head}: take its line away`, onclick: drop }, mark, `Head ${head} ×`);
      });
    const add = h(
      "select",
      {
        "aria-label": "Add the line of a head",
        onchange: () => {
          this.#store.set({ heads: toggled(this.#store.state.heads, Number(add.value)) });
        },
      },
      h("option", { value: "" }, "add a head…"),
      ...all.filter((head) => !state.heads.includes(head)).map((head) => h("option", { value: head }, `Head ${head}`)),
    );
    const strongest = () => {
      const now = this.#store.scene;
      if (now && this.#token)
        this.#store.set({
          heads: strongestHeads(headMatrix({ ...now, state: { ...now.state, token: this.#token.position } }), 3),
        });
    };
    this.#chosen.replaceChildren(...buttons, add, h("button", { onclick: strongest }, "3 strongest"));
  }

  #layerAt(x: number): number | null {
    if (!this.#plotted || !this.#scene) return null;
    const { x: place } = this.#plotted;
    return this.#scene.run.layers.reduce((best, layer) =>
      Math.abs(place(layer) - x) < Math.abs(place(best) - x) ? layer : best,
    );
  }

  /** The token stays the one that is shown. */
  #hover(layer: number | null): void {
    this.#store.hover({ token: this.#token?.position ?? null, layer });
  }

  #choose(layer: number | null): void {
    this.#store.set({ layer: this.#scene?.state.layer === layer ? null : layer });
  }

  #press({ key }: KeyboardEvent): boolean {
    const {
      run: { layers },
      state,
    } = this.#scene!;
    const here = state.layer === null ? -1 : layers.indexOf(state.layer);
    const to: Record<string, number> = {
      ArrowLeft: Math.max(0, here - 1),
      ArrowRight: Math.min(layers.length - 1, here + 1),
      Home: 0,
      End: layers.length - 1,
    };
    if (!(key in to)) return false;
    this.#store.set({ layer: layers[to[key]] });
    return true;
  }

  drawing(scene: Scene): Drawing | null {
    const found = target(scene);
    if (!found) return null;
    const [title, width, height] = ["Importance over layers", 760, 460];
    return {
      title,
      width,
      height,
      draw: (painter) => {
        const curve = scene.state.curve === "sqrt" ? "square-root scale" : "linear scale";
        const lines = [
          ...captions(scene, false),
          `${named(found.token)} · ${curve}`,
          others(scene, found.token).join(" · "),
        ].filter(Boolean);
        const top = heading(painter, LIGHT, title, lines);
        drawLines(
          painter,
          LIGHT,
          scene,
          seriesOf(scene, found.token.position),
          { x: 12, y: top, width: width - 24, height: height - top - 12 },
          scene.state.layer,
        );
      },
    };
  }

  lines(scene: Scene): Line[] | null {
    const found = target(scene);
    return (
      found &&
      seriesOf(scene, found.token.position).flatMap(({ run, variant, layers, values }) => {
        const token = run.tokens[tokenIndex(run, found.token.position)];
        return [...values].flatMap((value, place) =>
          isNaN(value) ? [] : { run: run.name, variant, more: { layer: layers[place] }, token, value },
        );
      })
    );
  }
}

const layersOf = (series: Series[]) => [...new Set(series.flatMap(({ layers }) => layers))].sort((a, b) => a - b);

/** Noise floors are those of the line's own variant, not of the one on the heat map. */
const floorOf = ({ run, variant }: Series, metric: Scene["state"]["metric"]) =>
  noiseFloor(run, { metric, variant } as Scene["state"]);

function peakLayer({ layers, values }: Series): number {
  return layers[values.reduce((best, value, place) => (value > values[best] || isNaN(values[best]) ? place : best), 0)];
}

function nameOf({ variant, runPlace }: Series, runs: number): string {
  return variantName(variant) + (runs > 1 && runPlace > 0 ? ` (${runPlace + 1})` : "");
}

/** Full is ink, Attn grey, a head its colour; the head on the page, if it has no colour of its own, is the selection. */
function colourOf({ variant }: Series, { state, dark }: Scene, colours: Ink): string {
  const head = headNumber(variant);
  if (head !== null) return headColour(state, head, colours === LIGHT ? false : dark) ?? colours.accent;
  const name = variant.slice(crossing(variant).length);
  return name === "Full" ? colours.ink : name === "Attn" ? colours.faint : colours.muted;
}

const dashOf = ({ runPlace }: Series) => DASHES[Math.min(runPlace, DASHES.length - 1)];

/** A piece of a line, as a background. */
function swatch(colour: string, dash: number[]): string {
  let at = 0;
  const stops = dash.map((length, i) => `${i % 2 ? "transparent" : colour} ${at}px ${(at += length)}px`);
  return stops.length ? `repeating-linear-gradient(to right, ${stops.join(", ")})` : colour;
}

/** Which run is which line, whether they speak of the same token and in the same unit; sentences. */
function others({ runs, state }: Scene, token: TokenInfo): string[] {
  const units =
    state.metric === "l2" && new Set(runs.map(modelName)).size > 1
      ? ["Models differ: their L2 is in different units."]
      : [];
  return [
    ...units,
    ...runs.slice(1).map((run, place) => {
      const there = run.tokens[tokenIndex(run, token.position)];
      const same = sameToken(runs[0], token, run) >= 0;
      const what =
        !there || !run.steps.includes(state.step)
          ? "no value here"
          : same
            ? ""
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

function drawLines(
  painter: Painter,
  colours: Ink,
  scene: Scene,
  series: Series[],
  area: Area,
  crosshair: number | null,
): Plot {
  const { state, runs } = scene;
  const small = { size: 11, colour: colours.muted };
  const layers = layersOf(series);
  const largest = series.reduce((most, { values }) => values.reduce((m, value) => (value > m ? value : m), most), 0);
  const marks = ticks(largest, 4);
  const names = series.map((line) => nameOf(line, runs.length));
  const left = area.x + 10 + Math.max(...marks.map((mark) => painter.measure(number(mark), small)));
  const right =
    area.x + area.width - 14 - Math.max(0, ...names.map((name) => painter.measure(name, { ...small, bold: true })));
  const [top, bottom] = [area.y + 20, area.y + area.height - 32];
  const [first, last] = [layers[0], layers[layers.length - 1]];
  const x = (layer: number) =>
    last === first ? (left + right) / 2 : left + 6 + ((layer - first) / (last - first)) * (right - left - 12);
  const y = (value: number) => bottom - share(value, largest, state.curve) * (bottom - top);

  for (const mark of marks) {
    painter.line([left, Math.round(y(mark)) + 0.5, right, Math.round(y(mark)) + 0.5], colours.line);
    painter.text(left - 5, y(mark) + 4, number(mark), { ...small, align: "right" });
  }
  painter.text(
    area.x,
    area.y + 9,
    METRICS[state.metric] + (state.curve === "sqrt" ? ", square-root scale" : ""),
    small,
  );
  const every = Math.ceil((layers.length * 22) / Math.max(1, right - left));
  layers.forEach((layer, place) => {
    if (place % every === 0) painter.text(x(layer), bottom + 14, String(layer), { ...small, align: "center" });
  });
  painter.text((left + right) / 2, bottom + 28, "layer", { ...small, align: "center" });

  // Below its band a line cannot be told from 0. Heads have a floor of their own, mostly a lower one.
  for (const floor of new Set(series.map((line) => floorOf(line, state.metric)))) {
    const high = bottom - y(Math.min(floor, largest));
    if (high >= 1) painter.hatch(left, bottom - high, right - left, high, colours.line);
    if (high >= 16) painter.text(right - 4, bottom - high + 12, "noise floor", { ...small, size: 10, align: "right" });
  }
  const chosen = (layer: number | null, colour: string) => {
    if (layer !== null && layers.includes(layer))
      painter.line([Math.round(x(layer)) + 0.5, top - 6, Math.round(x(layer)) + 0.5, bottom], colour, 1.5);
  };
  chosen(state.layer, colours.accent);
  if (crosshair !== state.layer) chosen(crosshair, colours.muted);

  // The run in front is drawn last, on top, and Full on top of it.
  for (const line of [...series].reverse()) {
    const colour = colourOf(line, scene, colours);
    const points = line.layers.flatMap((layer, place) => [
      x(layer),
      isNaN(line.values[place]) ? NaN : y(line.values[place]),
    ]);
    painter.line(points, colour, line.variant === state.variant ? 2.5 : 1.5, dashOf(line));
    line.layers.forEach((layer, place) => {
      const value = line.values[place];
      const alone = isNaN(line.values[place - 1] ?? NaN) && isNaN(line.values[place + 1] ?? NaN);
      if (!isNaN(value) && (alone || layer === crosshair)) painter.circle(x(layer), y(value), 3, colour);
    });
  }
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
    const colour = colourOf(line, scene, colours);
    const readable = line.variant.endsWith("Attn") ? colours.muted : colour;
    if (Math.abs(heights[place] - end[1]) > 5)
      painter.line([end[0] + 3, end[1], right + 8, heights[place]], colours.line);
    painter.text(right + 10, heights[place] + 4, names[place], {
      size: 11,
      bold: line.variant === state.variant,
      colour: readable,
    });
  });
  return { series, layers, largest, x, y, left, right, top, bottom };
}
