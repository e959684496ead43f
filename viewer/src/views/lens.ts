/**
 * What image tokens say: a picture with the nearest text token in each patch, and the neighbours of one patch by layer.
 *
 * It stands above the runs and needs none. With a run of the same picture in front, a patch that is selected here is
 * selected there, and the other way round.
 */

import { h, onKeys, setText } from "../core/dom.ts";
import { ink } from "../core/ink.ts";
import { groupName, matching, scaleOf, shownPatch, wins, type LensScene } from "../core/lens.ts";
import { CanvasPainter } from "../core/painter.ts";
import type { State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { number } from "../core/tokens.ts";
import { plural } from "../data/errors.ts";
import type { Neighbors } from "../data/types.ts";
import type { Export } from "./exports.ts";
import { gradient } from "./figure.ts";
import { evolutionDrawing, highest, lensDrawing, paintLens, WIDEST, type LensFigure } from "./lens-paint.ts";
import { evolutionTable, neighbourTable, swatch } from "./lens-tables.ts";
import { captionOf, facts, figuresOf, legendText, listing, patchText, subject, whatText } from "./lens-words.ts";
import { neighbour, patchAt, patchesOf, type Patch } from "./patches.ts";
import { loadPicture } from "./picture-base.ts";
import { fitted, sizeOf } from "./picture-paint.ts";
import { LayerPlayer, OpacityControl } from "./slider.ts";
import "./lens.css";

const TINTS = { similarity: "similarity", bank: "bank layer", impact: "masking impact" };
const NARROWEST = 260; // CSS pixels of one of several pictures

interface Place {
  figure: LensFigure;
  canvas: HTMLCanvasElement;
  frame: HTMLElement;
  width: number;
  height: number;
}

export class LensView extends Drawn<LensScene> {
  readonly element: HTMLElement;
  /** Where the page puts its buttons while no run has them. */
  readonly always = h("span.buttons");
  #store: Store;
  #places: Place[] = [];
  /** `hover` is a position. */
  readonly #own = this.watched({ width: 0, hover: null as number | null, pictures: 0 });
  readonly #pictureReady = () => void this.#own.pictures++;

  #title = h("h1");
  #facts = h("p.muted");
  #tables = h("select", {
    "aria-label": "Which table of neighbours",
    onchange: () => this.#store.set({ lens: Number(this.#tables.value), patch: null }),
  });
  #away = h(
    "button.quiet",
    { "aria-label": "Close these neighbours", title: "Close", onclick: () => this.#store.removeLens() },
    "×",
  );
  #notes = h("ul.header-limits");
  #near = h("select", { onchange: () => this.#store.set({ near: this.#near.value }) });
  #tint = h("select", { onchange: () => this.#store.set({ tint: this.#tint.value as State["tint"] }) });
  #ranks = h("input", { type: "checkbox", onchange: () => this.#store.set({ ranks: this.#ranks.checked }) });
  #find = h("input", {
    type: "search",
    placeholder: "red",
    oninput: () => this.#store.set({ find: this.#find.value }),
  });
  #hits = h("output.muted");
  #layer: LayerPlayer;
  #opacity: OpacityControl;
  #what = h("p.lens-what");
  #figures = h("div.lens-figures");
  #legend = h("div.lens-legend");
  #said = h("p.lens-said steady", { "aria-live": "polite" });
  #table = h("div.lens-scroll", { tabindex: 0, role: "region", "aria-label": "Neighbours of the patch by layer" });
  #won = h("p.lens-what", { id: "lens-wins" });
  #wins = h("div.lens-scroll", { tabindex: 0, role: "region", "aria-label": "Layer evolution" });

  constructor(store: Store) {
    super();
    this.#store = store;
    this.#layer = new LayerPlayer(
      store,
      "lens-layer",
      () => ({ run: store.lens!.found, state: store.lens!.state }),
      false,
    );
    this.#opacity = new OpacityControl(store, "lens-opacity", "Picture and words alone", "wash");
    const label = (text: string, control: HTMLElement) => h("label", {}, text, control);
    this.element = h(
      "section.lens",
      { "aria-label": "What image tokens say", hidden: true },
      h("div.lens-head", {}, this.#title, this.#facts, this.#tables, this.#away, this.always),
      this.#notes,
      h(
        "div.lens-controls",
        {},
        label("Neighbours in", this.#near),
        label("Colour by", this.#tint),
        h("label", {}, this.#ranks, "all ranks in every layer"),
        label("Find a token", this.#find),
        this.#hits,
      ),
      h("div.sliders", {}, ...this.#layer.elements, this.#opacity.label, this.#opacity.alone),
      this.#what,
      h(
        "div.lens-columns",
        {},
        h("div", {}, this.#figures, this.#legend, this.#said, this.#won, this.#wins),
        h("div", {}, this.#table),
      ),
    );
    this.draws(({ found }) => this.#build(found));
    this.draws(
      (scene) => this.#controls(scene),
      (scene) => this.#explain(scene),
      (scene) => this.#paint(scene),
    );
    this.draws((scene) => this.#list(scene));
    new ResizeObserver(([{ contentRect }]) => {
      this.#own.width = contentRect.width;
    }).observe(this.#figures);
  }

  override update(scene: LensScene | null): void {
    this.element.hidden = !scene;
    if (scene) super.update(scene);
    else this.#layer.stop();
  }

  #controls(scene: LensScene): void {
    const { found, state, all, beside } = scene;
    setText(this.#title, `${subject(found)}: what image tokens say`);
    setText(this.#facts, facts(found));
    this.#tables.hidden = all.length < 2;
    this.#away.hidden = all.length < 2 && !beside;
    this.#tables.replaceChildren(
      ...all.map((each, i) => h("option", { value: i, selected: each === found }, subject(each))),
    );
    options(
      this.#near,
      found.groups.map((group) => [group, groupName(group)]),
      state.near,
    );
    const there = (tint: string) => (tint === "impact" ? found.impact : tint !== "bank" || state.near === "merged");
    options(
      this.#tint,
      Object.entries(TINTS).filter(([key]) => there(key)),
      state.tint,
    );
    this.#ranks.checked = state.ranks;
    if (this.#find.value !== state.find) this.#find.value = state.find;
    this.#layer.update({ run: found, state }, `layer ${state.layer}`);
    this.#opacity.update(state, found.boxed && found.pictures.some((picture) => picture));
    setText(this.#what, whatText(scene));
  }

  // --- the picture ----------------------------------------------------------------------------------------
  #build(found: Neighbors): void {
    this.#notes.replaceChildren(...found.notes.map((note) => h("li", {}, note)));
    this.#places = figuresOf(found).map((figure) => {
      const canvas = h("canvas", { role: "img" });
      const frame = h("div.picture-frame", { role: "application", tabindex: 0 }, canvas);
      const place = { figure, canvas, frame, width: 0, height: 0 };
      this.#listen(place);
      if (found.boxed) void loadPicture(figure, this.#pictureReady);
      return place;
    });
    this.#figures.replaceChildren(
      ...this.#places.map(({ frame, figure }) => h("figure", {}, frame, h("figcaption", {}, captionOf(figure)))),
    );
  }

  #listen(place: Place): void {
    const { frame, canvas, figure } = place;
    const under = ({ clientX, clientY }: MouseEvent) => {
      const { left, top } = canvas.getBoundingClientRect(),
        [width, height] = sizeOf(figure);
      return patchAt(figure, ((clientX - left) / place.width) * width, ((clientY - top) / place.height) * height);
    };
    const point = (patch: Patch | null) => {
      const position = patch?.token.position ?? null;
      if (position === this.#own.hover) return;
      this.#own.hover = position;
      const { twin } = this.#store.lens!;
      if (twin) this.#store.hover({ token: patch ? twin[patch.place] : null, layer: null });
    };
    frame.onpointermove = (event) => point(under(event));
    frame.onpointerleave = frame.onblur = () => point(null);
    frame.onclick = (event) => this.#select(under(event));
    onKeys(frame, ({ key }) => {
      const {
        found,
        patch,
        state: { layer },
      } = this.#store.lens!;
      point(null); // or a pointer that rests here would hide what is selected
      if (key.startsWith("Arrow"))
        this.#select(neighbour(figure, patchesOf(figure, found.tokens[patch]?.position ?? null)[0] ?? null, key), true);
      else if (key === "PageUp" || key === "PageDown") {
        const next = found.layers[found.layers.indexOf(layer) + (key === "PageUp" ? 1 : -1)];
        if (next !== undefined) this.#store.set({ layer: next });
      } else if (key === "Escape") this.#select(null);
      else return false;
      return true;
    });
  }

  /** A second click takes the selection away, a key never does. */
  #select(patch: Patch | null, keep = false): void {
    const { twin, found, patch: before } = this.#store.lens!;
    const chosen = patch && (keep || patch.place !== before) ? patch.place : null;
    const token = chosen === null ? null : (twin?.[chosen] ?? -1);
    this.#store.set({
      patch: chosen === null ? null : found.tokens[chosen].position,
      ...(twin && token !== -1 ? { token } : {}),
    });
  }

  #paint(scene: LensScene): void {
    const { hover } = this.#own,
      whole = this.#own.width || WIDEST;
    void this.#own.pictures; // drawn again when another one has been loaded
    const available = this.#places.length > 1 && whole > 2 * NARROWEST + 16 ? (whole - 16) / 2 : whole;
    const selected = scene.found.tokens[shownPatch(scene).token].position;
    for (const place of this.#places) {
      const { figure, canvas, frame } = place;
      [place.width, place.height] = fitted(sizeOf(figure), available, WIDEST, highest(figure));
      Object.assign(canvas.style, { width: `${place.width}px`, height: `${place.height}px` });
      paintLens(
        new CanvasPainter(canvas, place.width, place.height, devicePixelRatio),
        figure,
        scene,
        [0, 0, place.width, place.height],
        ink(scene.dark),
        selected,
        hover,
      );
      frame.setAttribute(
        "aria-label",
        `Patches of image ${figure.image}: arrow keys select, page keys go through the layers`,
      );
      canvas.setAttribute(
        "aria-label",
        `Image ${figure.image} with ${plural(figure.patches.length, "image token")}. ${whatText(scene)}`,
      );
    }
    const pointed = scene.found.tokens.findIndex(({ position }) => position === hover);
    setText(this.#said, patchText(scene, pointed >= 0 ? pointed : shownPatch(scene).token));
  }

  #explain(scene: LensScene): void {
    const { found, state } = scene,
      hits = matching(scene);
    const any = new Set(hits?.flatMap((layer) => [...layer.keys()]));
    setText(
      this.#hits,
      hits
        ? `in ${hits[found.layers.indexOf(state.layer)].size} of ${found.tokens.length} patches; in any layer, ${any.size}`
        : "",
    );
    if (state.tint === "bank") {
      return this.#legend.replaceChildren(
        legendText(scene),
        ...found.bankLayers.map((layer) => h("span", {}, swatch(scene, layer, "i"), String(layer))),
      );
    }
    const bar = h("i"),
      [low, high] = scaleOf(scene);
    bar.style.background = gradient(state, false);
    this.#legend.replaceChildren(number(low), bar, number(high), h("span", {}, legendText(scene)));
  }

  // --- the tables -----------------------------------------------------------------------------------------
  #list(scene: LensScene): void {
    const { found } = scene,
      { hover } = this.#own,
      shown = shownPatch(scene);
    const pointed = found.tokens.findIndex(({ position }) => position === hover);
    const token = pointed >= 0 ? pointed : shown.token;
    const focused = (document.activeElement as HTMLElement | null)?.dataset.layer,
      inside = document.activeElement?.closest(".lens-scroll");
    const evolution = evolutionTable(scene, (layer) => this.#layerButton(layer));
    this.#table.replaceChildren(
      neighbourTable(scene, token, pointed >= 0 ? "" : shown.why, (layer) => this.#layerButton(layer)),
    );
    this.#wins.replaceChildren(...(evolution ? [evolution] : []));
    setText(
      this.#won,
      `Layer evolution: of how many of the ${found.tokens.length} patches in a layer (last on top) the nearest text token is in which bank layer (across).`,
    );
    this.#won.hidden = this.#wins.hidden = !this.#wins.firstChild;
    if (focused && inside) inside.querySelector<HTMLElement>(`[data-layer="${focused}"]`)?.focus();
  }

  #layerButton(layer: number): HTMLElement {
    return h(
      "button",
      { "data-layer": layer, "aria-label": `Show layer ${layer}`, onclick: () => this.#store.set({ layer }) },
      String(layer),
    );
  }

  // --- export ---------------------------------------------------------------------------------------------
  exports(): Export[] {
    const scene = () => this.#store.lens,
      of = () => scene()!.found.name;
    const lines = (now: LensScene) => [facts(now.found), whatText(now)];
    return [
      {
        name: "Neighbours",
        of,
        drawing: () => {
          const now = scene();
          return now && lensDrawing(now, figuresOf(now.found), this.#title.textContent!, lines(now), legendText(now));
        },
        table: () => {
          const now = scene();
          return now && listing(now, [now.state.layer], [...now.found.tokens.keys()]);
        },
      },
      {
        name: "Patch",
        of,
        drawing: () => null,
        table: () => {
          const now = scene();
          return now && listing(now, now.found.layers, [shownPatch(now).token]);
        },
      },
      {
        name: "Layer evolution",
        of,
        drawing: () => {
          const now = scene();
          return (
            now &&
            evolutionDrawing(now, "Layer evolution", [
              facts(now.found),
              "Of how many image tokens in a layer (upwards) the nearest text token is in which bank layer (across).",
            ])
          );
        },
        table: () => {
          const now = scene();
          return (
            now &&
            wins(now.found, now.found.layers[0]) && [
              ["run", "layer", "bank_layer", "image_tokens"],
              ...now.found.layers.flatMap((layer) =>
                wins(now.found, layer)!.map((count, i) =>
                  [now.found.name, layer, now.found.bankLayers[i], count].map(String),
                ),
              ),
            ]
          );
        },
      },
    ];
  }
}

function options(select: HTMLSelectElement, list: string[][], value: string): void {
  if (select.dataset.list !== list.join())
    select.replaceChildren(...list.map(([key, text]) => h("option", { value: key }, text)));
  select.dataset.list = list.join();
  select.value = value;
  select.parentElement!.hidden = list.length < 2;
}
