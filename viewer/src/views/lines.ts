/** One token's importance over the layers: Full, Attn and the chosen heads, of all shown runs. */

import { h, onKeys } from "../core/dom.ts";
import type { Line } from "../core/export.ts";
import { headMatrix, headNumber, strongestHeads } from "../core/head-matrix.ts";
import { ink, LIGHT } from "../core/ink.ts";
import { titleOf } from "../core/metrics.ts";
import { CanvasPainter, type Drawing } from "../core/painter.ts";
import { isNoise, tokenIndex, type Scene, type View } from "../core/scene.ts";
import { seriesOf, target, toggled, type Series } from "../core/series.ts";
import type { Store } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { named, number } from "../core/tokens.ts";
import { crossing, isDifference } from "../core/words.ts";
import type { TokenInfo } from "../data/types.ts";
import { captions, heading } from "./figure.ts";
import { headColour } from "./head-marks.ts";
import { colourOf, dashOf, drawLines, floorOf, nameOf, others, peakLayer, swatch, type Plot } from "./lines-paint.ts";
import "./lines.css";

const HEIGHT = 210;
export class LinesView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #store: Store;
  /** The width as observed: asking the element would lay out the page in the middle of an update. */
  readonly #own = this.watched({ width: 0 });
  #plotted: Plot | null = null;
  #token: TokenInfo | null = null;

  #what = h("p.lines__what");
  #canvas = h("canvas", { role: "application", "aria-roledescription": "line plot", tabindex: 0 });
  #plot = h("div.lines__plot", {}, this.#canvas);
  #readout = h("div.lines__readout", { "aria-live": "polite" });
  #chosen = h("div.lines__heads");
  #note = h("p.lines__note");

  constructor(store: Store) {
    super();
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
      this.#own.width = contentRect.width;
    }).observe(this.#plot);
    const lines = (scene: Scene) => {
      const found = target(scene);
      return found ? seriesOf(scene, found) : [];
    };
    this.draws(
      (scene) => this.#explain(scene),
      (scene) => this.#paint(scene, lines(scene)),
      (scene) => this.#say(scene, lines(scene)),
    );
    this.draws((scene) => this.#chooser(scene));
  }

  #explain(scene: Scene): void {
    const { runs, run, state } = scene,
      found = target(scene);
    this.#token = found?.token ?? null;
    for (const part of [this.#plot, this.#readout]) part.hidden = !found;
    const strongest = isDifference(state, runs) ? "Differs most: " : "Most important: "; // until another one is selected
    this.#what.textContent = found
      ? (found.why === "strongest" ? strongest : "") + named(found.token, 20)
      : "No token has a value at this step.";
    if (!found) return;
    this.#canvas.setAttribute(
      "aria-label",
      `${titleOf(run, state)} of ${named(found.token)} over ${run.layers.length} layers; left and right select a layer`,
    );
    this.#note.replaceChildren(...others(scene, found).map((text) => h("span", { title: text }, text)));
  }

  #paint(scene: Scene, series: Series[]): void {
    const { width } = this.#own;
    if (!width || !series.length) return;
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
    if (!series.length) return;
    const { state, hover, dark, runs } = scene;
    const chosen = hover.layer ?? state.layer;
    const layer = chosen ?? peakLayer(series[0]);
    const parts = series.map((line) => {
      const mark = h("i");
      mark.style.background = swatch(colourOf(line, scene, ink(dark)), dashOf(line));
      const place = line.layers.indexOf(layer);
      const value = place < 0 ? NaN : line.values[place];
      const low = isNoise(value, floorOf(line, state.metric, layer));
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
    const { scene } = this.#store;
    if (!this.#plotted || !scene) return null;
    const { x: place } = this.#plotted;
    return scene.run.layers.reduce((best, layer) =>
      Math.abs(place(layer) - x) < Math.abs(place(best) - x) ? layer : best,
    );
  }

  /** The token stays the one that is shown. */
  #hover(layer: number | null): void {
    this.#store.hover({ token: this.#token?.position ?? null, layer });
  }

  #choose(layer: number | null): void {
    this.#store.set({ layer: this.#store.scene?.state.layer === layer ? null : layer });
  }

  #press({ key }: KeyboardEvent): boolean {
    const {
      run: { layers },
      state,
    } = this.#store.scene!;
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
          others(scene, found).join(" · "),
        ].filter(Boolean);
        const top = heading(painter, LIGHT, title, lines);
        drawLines(
          painter,
          LIGHT,
          scene,
          seriesOf(scene, found),
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
      seriesOf(scene, found).flatMap(({ run, variant, layers, values, position }) => {
        const token = run.tokens[tokenIndex(run, position)];
        return [...values].flatMap((value, place) =>
          isNaN(value) ? [] : { run: run.name, variant, more: { layer: layers[place] }, token, value },
        );
      })
    );
  }
}
