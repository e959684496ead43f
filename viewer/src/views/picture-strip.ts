/** A strip of small maps of one picture: every layer, or every output token. A click on one shows it large. */

import { h } from "../core/dom.ts";
import { ink, type Ink } from "../core/ink.ts";
import { CanvasPainter, type Painter } from "../core/painter.ts";
import type { Scene } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { label, number } from "../core/tokens.ts";
import { overLayers } from "../core/aggregate.ts";
import { predicted } from "../core/words.ts";
import { plainToken } from "../data/cube.ts";
import { layerMaps, stepMaps, type Figure } from "./patches.ts";
import { cut } from "./figure.ts";
import { fitted, paintMap, sizeOf, type Area } from "./picture-paint.ts";

const GAP = 8,
  NAME = 18, // pixels under a map
  SMALLEST = 64,
  LARGEST = 150;

/** What the maps are of, in words; and for each its name, its values and what a click chooses. */
export interface Maps {
  figure: Figure;
  title: string;
  largest: number;
  sizes: Float32Array | null;
  signed: boolean;
  maps: { name: string; values: Float32Array; chosen: boolean; state: Partial<State> }[];
}

/** Every layer of a picture, on one scale. */
export function ofLayers(scene: Scene, figure: Figure): Maps | null {
  const { state } = scene,
    { run } = figure;
  if (run.layers.length < 2 || !figure.patches.length) return null;
  const { values, largest, sizes, signed } = layerMaps(scene, figure);
  return {
    figure,
    title: `Every layer, on one scale to ${number(largest)}`,
    largest,
    sizes,
    signed,
    maps: run.layers.map((layer, place) => ({
      name: `layer ${layer}`,
      values: values[place],
      chosen: state.layer === layer,
      state: { layer: state.layer === layer ? null : layer },
    })),
  };
}

/** Every output token, layers joined, on one scale. */
export function ofSteps(scene: Scene, figure: Figure): Maps | null {
  const { state } = scene,
    { run } = figure;
  if (run.steps.length < 2 || !figure.patches.length || state.query !== null) return null;
  const { values, largest, sizes, signed } = stepMaps(scene, figure);
  return {
    figure,
    title: `Every output token, ${overLayers(state.join)}, on one scale to ${number(largest)}`,
    largest,
    sizes,
    signed,
    maps: run.steps.map((step, place) => ({
      name: label(plainToken(0, predicted(run, step)?.text ?? `step ${step + 1}`), 16),
      values: values[place],
      chosen: state.step === step,
      state: { step, layer: null },
    })),
  };
}

interface Layout {
  width: number;
  height: number;
  across: number;
  size: [width: number, height: number];
}

export function stripLayout({ figure, maps }: Maps, width: number): Layout {
  const most = Math.max(SMALLEST, Math.min(LARGEST, (width + GAP) / maps.length - GAP));
  const [w, h] = fitted(sizeOf(figure), most, most, most);
  const across = Math.max(1, Math.min(maps.length, Math.floor((width + GAP) / (w + GAP))));
  const down = Math.ceil(maps.length / across);
  return { width: w, height: h, across, size: [across * (w + GAP) - GAP + 2, down * (h + NAME + GAP)] };
}

export function paintStrip(
  painter: Painter,
  strip: Maps,
  scene: Scene,
  colours: Ink,
  { width, height, across }: Layout,
): void {
  strip.maps.forEach(({ name, values, chosen }, place) => {
    const x = 1 + (place % across) * (width + GAP),
      y = 1 + Math.floor(place / across) * (height + NAME + GAP);
    const at: Area = [x, y, width, height];
    paintMap(painter, strip.figure, scene.state, values, strip, at, colours);
    painter.rect(x + 0.5, y + 0.5, width - 1, height - 1, null, chosen ? colours.accent : colours.line, chosen ? 3 : 1);
    const style = { size: 11, bold: chosen };
    painter.text(x, y + height + 13, cut(painter, name, width + GAP - 2, style), {
      ...style,
      colour: chosen ? colours.accent : colours.muted,
    });
  });
}

export class Strip {
  readonly element: HTMLElement;
  #title = h("h3");
  #canvas = h("canvas", { role: "img" });
  #maps: Maps | null = null;
  #layout: Layout | null = null;

  constructor(store: Store) {
    this.element = h("div.picture-strip", {}, this.#title, this.#canvas);
    this.#canvas.onclick = ({ offsetX, offsetY }) => {
      const map = this.#maps?.maps[this.#under(offsetX, offsetY)];
      if (map) store.set(map.state);
    };
    this.#canvas.onpointermove = ({ offsetX, offsetY }) => {
      this.#canvas.title = this.#maps?.maps[this.#under(offsetX, offsetY)]?.name ?? "";
    };
  }

  update(maps: Maps | null, scene: Scene, width: number): void {
    this.#maps = maps;
    this.element.hidden = !maps;
    if (!maps) return;
    const layout = (this.#layout = stripLayout(maps, width));
    this.#title.textContent = maps.title;
    this.#canvas.setAttribute("aria-label", `${maps.title}: ${maps.maps.map(({ name }) => name).join(", ")}`);
    Object.assign(this.#canvas.style, { width: `${layout.size[0]}px`, height: `${layout.size[1]}px` });
    paintStrip(new CanvasPainter(this.#canvas, ...layout.size, devicePixelRatio), maps, scene, ink(scene.dark), layout);
  }

  #under(x: number, y: number): number {
    const { width, height, across } = this.#layout!;
    const column = Math.floor(x / (width + GAP));
    return column < across ? Math.floor(y / (height + NAME + GAP)) * across + column : -1;
  }
}
