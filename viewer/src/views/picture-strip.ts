/** A strip of small maps of one picture: every layer, or every output token. A click on one shows it large. */

import { h } from "../core/dom.ts";
import { ink, type Ink } from "../core/ink.ts";
import { CanvasPainter, type Painter } from "../core/painter.ts";
import type { Scene } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { levels } from "../core/deepstack.ts";
import { label, number } from "../core/tokens.ts";
import { overLayers } from "../core/aggregate.ts";
import { predicted } from "../core/words.ts";
import { plainToken } from "../data/cube.ts";
import { framesOf, injectionMaps, layerMaps, scaleOf, shown, stepMaps, type Figure } from "./patches.ts";
import { cut } from "./figure.ts";
import { fitted, paintMap, sizeOf, type Area } from "./picture-paint.ts";

const GAP = 8,
  NAME = 18, // pixels under a map
  SMALLEST = 64,
  LARGEST = 150;

/** What the maps are of, in words; and for each its name, its values and what a click chooses. */
export interface Maps {
  title: string;
  largest: number;
  sizes: Float32Array | null;
  signed: boolean;
  maps: { figure: Figure; name: string; values: Float32Array; chosen: boolean; state: Partial<State> }[];
}

/** Every layer of a picture, on one scale. */
export function ofLayers(scene: Scene, figure: Figure): Maps | null {
  const { state } = scene,
    { run } = figure;
  if (run.layers.length < 2 || !figure.patches.length) return null;
  const { values, largest, sizes, signed } = layerMaps(scene, figure);
  return {
    title: `Every layer, on one scale to ${number(largest)}`,
    largest,
    sizes,
    signed,
    maps: run.layers.map((layer, place) => ({
      figure,
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
    title: `Every output token, ${overLayers(state.join)}, on one scale to ${number(largest)}`,
    largest,
    sizes,
    signed,
    maps: run.steps.map((step, place) => ({
      figure,
      name: label(plainToken(0, predicted(run, step)?.text ?? `step ${step + 1}`), 16),
      values: values[place],
      chosen: state.step === step,
      state: { step, layer: null },
    })),
  };
}

/** Every DeepStack injection: what the answer needs of it in each patch. */
export function ofInjections(scene: Scene, figure: Figure): Maps | null {
  const { state } = scene,
    found = levels(figure.run);
  if (!found.length || !figure.patches.length) return null;
  const { values, largest, sizes, signed } = injectionMaps(scene, figure);
  return {
    title: `Change of log-probability without each injection, patch by patch, on one scale to ${number(largest)}`,
    largest,
    sizes,
    signed,
    maps: found.map(({ injection, vision }, place) => ({
      figure,
      name: `${injection} (vision layer ${vision})`,
      values: values[place],
      chosen: state.injection === place,
      state: { injection: state.injection === place ? null : place },
    })),
  };
}

/** Every frame of a video, as the large one is coloured. */
export function ofFrames(scene: Scene, figure: Figure): Maps | null {
  const found = shown(scene),
    frames = framesOf(figure);
  if (frames.length < 2 || !figure.patches.length) return null;
  const { largest, sizes } = scaleOf(found, figure.run),
    values = found.values.get(figure.run)!.of;
  return {
    title: `Every frame, on one scale to ${number(largest)}`,
    largest,
    sizes,
    signed: found.signed,
    maps: frames.map((frame, place) => ({
      figure: frame,
      name: frameName(frame, place),
      values,
      chosen: frame === figure,
      state: { frame: frame.image },
    })),
  };
}

/** "frame 2, 1 and 1.25 s" */
export const frameName = ({ about: { path } }: Figure, place: number): string =>
  /frame \d+.*?(?=>?$)/.exec(path ?? "")?.[0] ?? `frame ${place}`;

export const KINDS = [ofFrames, ofLayers, ofSteps];

/** Of a picture, small maps of each kind; those of layers and steps are of values that single layers read. */
export const mapsOf = (scene: Scene, figure: Figure) =>
  KINDS.map((make) => (make === ofFrames || shown(scene).effect === null ? make(scene, figure) : null));

/** The frames of the first video, and which of them is shown large. */
export function video(scene: Scene): { frames: Figure[]; at: number } {
  const figure = shown(scene).figures.find((each) => framesOf(each).length > 1 && each.patches.length);
  const frames = figure ? framesOf(figure) : [];
  return { frames, at: figure ? frames.indexOf(figure) : -1 };
}

interface Layout {
  width: number;
  height: number;
  across: number;
  size: [width: number, height: number];
}

export function stripLayout({ maps }: Maps, width: number): Layout {
  const most = Math.max(SMALLEST, Math.min(LARGEST, (width + GAP) / maps.length - GAP));
  const [w, h] = fitted(sizeOf(maps[0].figure), most, most, most);
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
  strip.maps.forEach(({ figure, name, values, chosen }, place) => {
    const x = 1 + (place % across) * (width + GAP),
      y = 1 + Math.floor(place / across) * (height + NAME + GAP);
    const at: Area = [x, y, width, height];
    paintMap(painter, figure, scene.state, values, strip, at, colours);
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
