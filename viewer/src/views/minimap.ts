/** All tokens at a glance, along the heat map, with a frame around what is in view; only where not all fit. */

import { h } from "../core/dom.ts";
import { ink } from "../core/ink.ts";
import { CanvasPainter, setPixel } from "../core/painter.ts";
import { paletteOf, table } from "../core/colour.ts";
import type { Scene, View } from "../core/scene.ts";
import { columnOf, largestFor, placeOf, sheets, type Sheet } from "../core/sheet.ts";
import { Drawn, remembered } from "../core/track.ts";
import type { State } from "../core/state.ts";
import type { Viewport } from "./heatmap-grid.ts";

const THICK = 34;

export class Minimap extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #canvas = h("canvas", { "aria-hidden": "true" });
  #go: (x: number, y: number) => void;
  #viewport: () => Viewport | undefined;
  readonly #own = this.watched({ view: {} });

  /** `viewport`: that of the heat map, once it was laid out; `go`: to a place of its cells. */
  constructor(viewport: () => Viewport | undefined, go: (x: number, y: number) => void) {
    super();
    this.#viewport = viewport;
    this.#go = go;
    this.element = h("div.minimap", { title: "All tokens; click or drag to go there" }, this.#canvas);
    const follow = (event: PointerEvent) => {
      if (event.buttons & 1) this.#follow(event);
    };
    this.#canvas.onpointerdown = (event) => {
      this.#canvas.setPointerCapture(event.pointerId);
      this.#follow(event);
    };
    this.#canvas.onpointermove = follow;
    this.draws((scene) => this.#draw(scene));
  }

  /** After the heat map was scrolled, or laid out anew. */
  show(): void {
    this.#own.view = {}; // another one than before
  }

  #draw(scene: Scene): void {
    void this.#own.view; // the heat map's, which is asked below
    sheets(scene);
    const view = this.#viewport();
    if (!view) return;
    const { geometry: g, width, height, x, y } = view;
    const all = g.byLayers ? g.columns * g.cellWidth : g.rows * g.cellHeight;
    const seen = g.byLayers ? width : height;
    this.element.hidden = all <= seen + 1;
    this.element.classList.toggle("minimap-upright", !g.byLayers);
    if (this.element.hidden) return;
    const length = Math.round(seen);
    const [w, h] = g.byLayers ? [length, THICK] : [THICK, length];
    Object.assign(this.#canvas.style, { width: `${w}px`, height: `${h}px` });
    this.element.style.setProperty("--minimap-start", `${g.byLayers ? g.left : g.top}px`);
    const colours = ink(scene.dark),
      tokens = g.sheet.columns;
    const painter = new CanvasPainter(this.#canvas, w, h, devicePixelRatio);
    painter.rect(0, 0, w, h, colours.empty);
    painter.cells(0, 0, w, h, small({ sheet: g.sheet, byLayers: g.byLayers, length, state: scene.state }));
    const at = (columnOf(tokens, scene.state.token) + 0.5) * (length / tokens.length);
    if (at > 0) painter.line(g.byLayers ? [at, 0, at, h] : [0, at, w, at], colours.accent, 2);
    const [start, part] = [((g.byLayers ? x : y) / all) * length, Math.max(6, (seen / all) * length)];
    const shade = scene.dark ? "#00000080" : "#ffffff80";
    if (g.byLayers) {
      painter.rect(0, 0, start, h, shade);
      painter.rect(start + part, 0, w - start - part, h, shade);
      painter.rect(start + 1, 1, part - 2, h - 2, null, colours.ink, 2);
    } else {
      painter.rect(0, 0, w, start, shade);
      painter.rect(0, start + part, w, h - start - part, shade);
      painter.rect(1, start + 1, w - 2, part - 2, null, colours.ink, 2);
    }
  }

  #follow(event: PointerEvent): void {
    const { geometry: g, width, height, x, y } = this.#viewport()!;
    const box = this.#canvas.getBoundingClientRect();
    if (g.byLayers) this.#go(((event.clientX - box.left) / box.width) * g.columns * g.cellWidth - width / 2, y);
    else this.#go(x, ((event.clientY - box.top) / box.height) * g.rows * g.cellHeight - height / 2);
  }
}

interface Small {
  sheet: Sheet;
  byLayers: boolean;
  length: number;
  state: State;
}

/** The sheet in `length` pixels: tokens that share one are joined, and the strongest wins. */
const small = remembered(
  ({ sheet, byLayers, length, state }: Small): ImageData => {
    const { curve, least } = state,
      colours = table(paletteOf(state, sheet.signed));
    const tokens = sheet.columns.length,
      layers = sheet.layers.length;
    const bins = Math.min(tokens, length);
    const raster = byLayers ? new ImageData(bins, layers) : new ImageData(layers, bins),
      { data } = raster;
    for (let layer = 0; layer < layers; layer++) {
      for (let bin = 0, token = 0; bin < bins; bin++) {
        let best = -1,
          most = -1;
        for (; token * bins < (bin + 1) * tokens; token++) {
          const size = Math.abs(sheet.values[layer * tokens + token]) / (largestFor(sheet, layer, token) || 1);
          if (size > most) [best, most] = [token, size]; // never NaN
        }
        if (best < 0) continue;
        const place = placeOf(sheet, sheet.values[layer * tokens + best], layer, best, { curve, least });
        const pixel = byLayers ? (layers - 1 - layer) * bins + bin : bin * layers + layer;
        setPixel(data, pixel, colours[Math.round(place * 255)]);
      }
    }
    return raster;
  },
  ({ sheet }) => sheet,
);
