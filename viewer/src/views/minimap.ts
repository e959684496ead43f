/** All tokens at a glance, along the heat map, with a frame around what is in view; only where not all fit. */

import { h } from "../core/dom.ts";
import { ink } from "../core/ink.ts";
import { CanvasPainter } from "../core/painter.ts";
import { share, table } from "../core/colour.ts";
import { largestFor, type Sheet } from "../core/sheet.ts";
import type { Scene } from "../core/scene.ts";
import { columnOf } from "../core/sheet.ts";
import type { Viewport } from "./heatmap-grid.ts";
import { paletteOf } from "./heatmap-paint.ts";

const THICK = 34;

export class Minimap {
  readonly element: HTMLElement;
  #canvas = h("canvas", { "aria-hidden": "true" });
  #go: (x: number, y: number) => void;
  #scene!: Scene;
  #sheet!: Sheet;
  #raster: ImageData | null = null;
  #rasterOf: unknown[] = [];
  #viewport!: Viewport;

  constructor(go: (x: number, y: number) => void) {
    this.#go = go;
    this.element = h("div", { class: "minimap", title: "All tokens; click or drag to go there" }, this.#canvas);
    const follow = (event: PointerEvent) => {
      if (event.buttons & 1) this.#follow(event);
    };
    this.#canvas.addEventListener("pointerdown", (event) => {
      this.#canvas.setPointerCapture(event.pointerId);
      this.#follow(event);
    });
    this.#canvas.addEventListener("pointermove", follow);
  }

  update(scene: Scene, sheet: Sheet, viewport: Viewport): void {
    [this.#scene, this.#sheet] = [scene, sheet];
    this.show(viewport);
  }

  show(viewport: Viewport): void {
    this.#viewport = viewport;
    const { geometry: g, width, height } = viewport;
    const all = g.byLayers ? g.columns * g.cellWidth : g.rows * g.cellHeight;
    const seen = g.byLayers ? width : height;
    this.element.hidden = all <= seen + 1;
    this.element.classList.toggle("minimap-upright", !g.byLayers);
    if (this.element.hidden) return;
    const length = Math.round(seen);
    const [w, h] = g.byLayers ? [length, THICK] : [THICK, length];
    Object.assign(this.#canvas.style, { width: `${w}px`, height: `${h}px` });
    this.element.style.setProperty("--minimap-start", `${g.byLayers ? g.left : g.top}px`);
    const colours = ink(this.#scene.dark);
    const painter = new CanvasPainter(this.#canvas, w, h, devicePixelRatio);
    painter.rect(0, 0, w, h, colours.empty);
    painter.cells(0, 0, w, h, this.#small(length, g.byLayers));
    const at = (columnOf(this.#sheet.columns, this.#scene.state.token) + 0.5) * (length / this.#sheet.columns.length);
    if (at > 0) painter.line(g.byLayers ? [at, 0, at, h] : [0, at, w, at], colours.accent, 2);
    const [start, part] = [((g.byLayers ? viewport.x : viewport.y) / all) * length, Math.max(6, (seen / all) * length)];
    const shade = this.#scene.dark ? "#00000080" : "#ffffff80";
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

  /** The sheet with as many tokens joined (strongest wins) as there are per pixel. */
  #small(length: number, byLayers: boolean): ImageData {
    const { state } = this.#scene, sheet = this.#sheet;
    const uses = [sheet, length, byLayers, state.curve, state.palette];
    if (this.#raster && uses.every((each, i) => each === this.#rasterOf[i])) return this.#raster;
    const tokens = sheet.columns.length, layers = sheet.layers.length;
    const bins = Math.min(tokens, length);
    const raster = byLayers ? new ImageData(bins, layers) : new ImageData(layers, bins);
    const colours = table(paletteOf(sheet, state));
    const far = (place: number) => Math.abs(sheet.signed ? place - 0.5 : place);
    for (let layer = 0; layer < layers; layer++) {
      const best = new Float32Array(bins).fill(NaN);
      for (let token = 0; token < tokens; token++) {
        const value = sheet.values[layer * tokens + token];
        const place = share(value, largestFor(sheet, layer, token), state.curve, sheet.signed);
        const bin = Math.floor((token * bins) / tokens);
        if (!Number.isNaN(value) && !(far(best[bin]) >= far(place))) best[bin] = place;
      }
      best.forEach((place, bin) => {
        if (Number.isNaN(place)) return;
        const pixel = byLayers ? (layers - 1 - layer) * bins + bin : bin * layers + layer;
        const [red, green, blue] = colours[Math.round(place * 255)];
        raster.data[4 * pixel] = red;
        raster.data[4 * pixel + 1] = green;
        raster.data[4 * pixel + 2] = blue;
        raster.data[4 * pixel + 3] = 255;
      });
    }
    this.#rasterOf = uses;
    return (this.#raster = raster);
  }

  #follow(event: PointerEvent): void {
    const { geometry: g, width, height, x, y } = this.#viewport;
    const box = this.#canvas.getBoundingClientRect();
    if (g.byLayers) this.#go(((event.clientX - box.left) / box.width) * g.columns * g.cellWidth - width / 2, y);
    else this.#go(x, ((event.clientY - box.top) / box.height) * g.rows * g.cellHeight - height / 2);
  }
}
