/**
 * The pictures of a run with the heat map of their patches over them: which part of a picture did the model use?
 *
 * A cell lies where its token's `box` says, so a grid over a part of a picture (a centre crop) is in its place. Beside a
 * picture it stands untouched, and below it in small, for every layer and every output token. The colour scale is of
 * pictures alone, not shared with text.
 */

import { levels } from "../core/deepstack.ts";
import { besideScene, BesideStore } from "../core/beside.ts";
import { h, onKeys, setText } from "../core/dom.ts";
import { ink } from "../core/ink.ts";
import { CanvasPainter } from "../core/painter.ts";
import type { Scene, View } from "../core/scene.ts";
import { picked } from "../core/select.ts";
import type { State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { isDifference, layerText } from "../core/words.ts";
import { framesOf, neighbour, patchAt, patchesOf, shown, type Figure, type Patch, type Shown } from "./patches.ts";
import { base, loadPicture } from "./picture-base.ts";
import { boxOf, boxText, grown } from "./picture-box.ts";
import { pictureDrawing, pictureLines } from "./picture-figure.ts";
import {
  BAR_HEIGHT,
  BAR_WIDTH,
  fitted,
  paint,
  paintBar,
  paintPicture,
  sizeOf,
  WIDEST,
  type Area,
} from "./picture-paint.ts";
import { frameName, KINDS, mapsOf, Strip, video } from "./picture-strip.ts";
import {
  caption,
  described,
  figuresWithPatches,
  readout,
  scaleText,
  stepText,
  trouble,
  unmasked,
} from "./picture-words.ts";
import { LayerPlayer, OpacityControl, Player, setSlider, slider } from "./slider.ts";
import "./picture.css";

/** A picture on the page. */
interface Place {
  figure: Figure;
  frame: HTMLElement;
  canvas: HTMLCanvasElement;
  /** The picture without colours; only beside a single one. */
  plain: HTMLCanvasElement;
  caption: HTMLElement;
  width: number;
  height: number;
}

const NARROWEST = 200; // CSS pixels of one of two pictures
const GAP = 16; // between them, as in picture.css
const STRIPS = 4; // pictures that have their layers in small below them

/** What colours the patches, and how it is chosen. */
const BY = {
  impact: { name: "single-layer impact", state: { shade: "impact", injection: null } },
  effect: { name: "effect on the answer", state: { shade: "effect", injection: null } },
  injection: { name: "effect without a DeepStack injection", state: { injection: 0 } },
} satisfies Record<string, { name: string; state: Partial<State> }>;
type By = keyof typeof BY;

export class PictureView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #store: Store;
  #places: Place[] = [];
  readonly #own = this.watched({ width: 0, pointed: null as number | null, pictures: 0 });
  readonly #pictureReady = () => void this.#own.pictures++;
  #scales = h("div.picture-scales");
  #figures = h("div.picture-figures");
  #strips: Strip[][] = []; // of each picture: frames, layers, steps
  #below = h("div.picture-strips");
  #readout = h("p.picture-readout steady", { "aria-live": "polite", "data-said": "" });
  #note = h("p.muted");
  #layer: LayerPlayer;
  #frame: Player;
  #step = slider("picture-step", "Step");
  #opacity: OpacityControl;
  #by = h(
    "select",
    { onchange: () => this.#store.set(BY[this.#by.value as By].state) },
    ...Object.entries(BY).map(([value, { name }]) => h("option", { value }, name)),
  );
  #controls: HTMLElement;

  constructor(store: Store) {
    super();
    this.#store = store;
    this.#layer = new LayerPlayer(store, "picture-layer");
    this.#frame = new Player("picture-frame", "Frame", "frames", () => {
      const { frames, at } = video(store.scene!);
      return { places: frames.length, at, first: 0, choose: (place) => store.set({ frame: frames[place].image }) };
    });
    this.#opacity = new OpacityControl(store, "picture-opacity", "Picture alone", "opacity");
    this.#controls = h(
      "div.sliders",
      {},
      h("label", {}, "Colour by", this.#by),
      ...this.#frame.elements,
      ...this.#layer.elements,
      this.#opacity.alone,
      this.#step.label,
      this.#opacity.label,
    );
    this.element = h(
      "section.picture",
      { "aria-labelledby": "picture-heading", hidden: true },
      h("h2", { id: "picture-heading" }, "Picture"),
      this.#readout,
      this.#figures,
      this.#scales,
      this.#below,
      this.#controls,
      this.#note,
    );
    this.#step.input.oninput = () => store.set({ step: store.scene!.run.steps[this.#step.input.valueAsNumber] });
    new ResizeObserver(([{ contentRect }]) => {
      this.#own.width = contentRect.width;
    }).observe(this.#figures);
    this.draws((scene) => this.#build(shown(scene).figures));
    this.draws((scene) => {
      const { token } = scene.hover; // of others than patches nothing is shown here
      const isPatch = shown(scene).figures.some(({ patches }) =>
        patches.some((patch) => patch.token.position === token),
      );
      this.#own.pointed = isPatch ? token : null;
    });
    this.draws(
      (scene) => this.#showControls(scene, shown(scene)),
      (scene) => this.#layOut(scene, shown(scene)),
      (scene) => this.#showTexts(scene, shown(scene)),
    );
    this.draws((scene) => this.#showStrips(scene, shown(scene)));
  }

  // --- controls -------------------------------------------------------------------------------------------
  #showControls(scene: Scene, found: Shown): void {
    const { run, runs, state } = scene;
    this.element.hidden = !found.figures.length;
    if (this.element.hidden) return void [this.#layer, this.#frame].forEach((player) => player.stop());
    while (this.#scales.childElementCount > found.scales.length) this.#scales.lastElementChild!.remove();
    while (this.#scales.childElementCount < found.scales.length)
      this.#scales.append(h("div.picture-scale", {}, h("canvas", { "aria-hidden": "true" }), h("span")));
    const patches = figuresWithPatches(found);
    this.#controls.hidden = this.#scales.hidden = this.#readout.hidden = !patches;
    this.#layer.update(scene, layerText(state));
    setSlider(this.#step, run.steps.length - 1, run.steps.indexOf(state.step), stepText(scene));
    this.#step.label.hidden = run.steps.length < 2;
    const { effect } = found;
    this.#layer.hidden = effect !== null;
    const { frames, at } = video(scene);
    this.#frame.hidden = !frames.length;
    if (frames.length) this.#frame.show(frames.length, at, frameName(frames[at], at));
    const has = { impact: true, effect: !!run.effects, injection: levels(run).length > 0 };
    for (const option of this.#by.options) option.hidden = option.disabled = !has[option.value as By];
    this.#by.parentElement!.hidden = !(has.effect || has.injection) || isDifference(state, runs);
    this.#by.value = state.injection !== null && has.injection ? "injection" : state.shade;
    this.#opacity.update(
      state,
      runs.some(({ pictures }) => pictures.some((picture) => picture)),
    );
  }

  // --- pictures -------------------------------------------------------------------------------------------
  /** Anew only if they are others: loading pictures takes time, and a pointer may be over them. */
  #build(figures: Figure[]): void {
    const same = figures.length === this.#places.length && figures.every((each, i) => each === this.#places[i].figure);
    if (same) return;
    this.#places = figures.map((figure) => {
      const canvas = h("canvas", { role: "img" });
      const keys = figure.patches.length > 0;
      const what = `Patches of image ${figure.image} of ${figure.run.name}: arrow keys move, Enter selects`;
      const frame = h(
        "div",
        keys
          ? { class: "picture-frame", role: "application", tabindex: 0, "aria-label": what }
          : { class: "picture-frame picture-plain" },
        canvas,
      );
      const plain = h("canvas.picture-beside", { role: "img", "aria-label": "The picture without colours" });
      const place = { figure, frame, canvas, plain, caption: h("figcaption"), width: 0, height: 0 };
      if (keys) this.#listen(place);
      for (const each of [figure, ...framesOf(figure)]) void loadPicture(each, this.#pictureReady);
      return place;
    });
    this.#figures.replaceChildren(
      ...this.#places.map(({ frame, plain, caption }) =>
        h("figure", {}, h("div.picture-pair", {}, frame, plain), caption),
      ),
    );
  }

  #listen(place: Place): void {
    const { frame, canvas, figure } = place;
    const under = ({ clientX, clientY }: MouseEvent) => {
      const { left, top } = canvas.getBoundingClientRect();
      const [width, height] = figure.size!;
      return patchAt(figure, ((clientX - left) / place.width) * width, ((clientY - top) / place.height) * height);
    };
    const scenes = () =>
      new BesideStore(
        this.#store,
        Math.max(
          0,
          this.#store.scene!.beside.findIndex(({ id }) => id === figure.run.id),
        ),
      );
    const hover = (patch: Patch | null) =>
      patch
        ? scenes().hover({ token: patch.token.position, layer: this.#store.scene!.state.layer })
        : this.#store.hover();
    const select = (patch: Patch | null, more = false) => {
      const { position } = figure.run.tokens[patch?.place ?? -1] ?? {},
        own = scenes();
      if (position !== undefined) own.set(picked(own.scene!.state, position, more));
    };
    const cursor = () => {
      const at = (position: number | null) => patchesOf(figure, position)[0];
      const { hover, state } = scenes().scene!; // as it is now: keys can come faster than frames
      return at(hover.token) ?? at(state.token) ?? null;
    };
    let from: Patch | null = null, // where the button went down, and whether the pointer has left it since
      drawn = false;
    frame.onpointerdown = (event) => ([from, drawn] = [event.pointerType === "touch" ? null : under(event), false]);
    frame.onpointermove = (event) => {
      const patch = under(event);
      hover(patch);
      if (!(event.buttons & 1) || !from || !patch || (patch === from && !drawn)) return;
      drawn = true;
      this.#store.set({ region: boxOf(from, patch) });
    };
    frame.onpointerleave = () => hover(null);
    frame.onblur = () => hover(null);
    frame.onclick = (event) => {
      if (drawn) return void (drawn = false);
      if (this.#store.state.region.length) this.#store.set({ region: [] });
      select(under(event), event.shiftKey);
    };
    onKeys(frame, ({ key, shiftKey }) => {
      if (key.startsWith("Arrow") && shiftKey)
        this.#store.set({ region: grown(figure, this.#store.state.region, cursor(), key) });
      else if (key.startsWith("Arrow")) hover(neighbour(figure, cursor(), key));
      else if (key === "Enter" || key === " ") select(cursor());
      else return false;
      return true;
    });
  }

  /** Fits the pictures into the space there is, and draws them. */
  #layOut(scene: Scene, found: Shown): void {
    if (!found.figures.length) return;
    const { width, pointed } = this.#own,
      whole = width || WIDEST;
    void this.#own.pictures; // drawn again when another one has been loaded
    const alone = this.#places.length === 1, // then the picture without colours stands beside it
      two = whole > 2 * NARROWEST;
    const available = two ? (whole - GAP) / 2 : whole;
    const highest = Math.max(240, Math.min(WIDEST, innerHeight * (alone ? 0.42 : 0.5))); // so that what is below is seen, too
    const scale = window.devicePixelRatio || 1;
    const inks = ink(scene.dark);
    for (const place of this.#places) {
      const size = sizeOf(place.figure);
      [place.width, place.height] = fitted(size, available, WIDEST, highest);
      Object.assign(place.canvas.style, { width: `${place.width}px`, height: `${place.height}px` });
      place.caption.style.maxWidth = `${Math.max(place.width, Math.min(available, 260))}px`;
      const painter = new CanvasPainter(place.canvas, place.width, place.height, scale);
      const at: Area = [0, 0, place.width, place.height];
      const beside = scene.beside.indexOf(place.figure.run);
      const own = beside < 0 ? scene : besideScene(scene, beside);
      paint(painter, place.figure, own, found, at, inks, pointed && (scene.pointed[beside] ?? pointed));
      place.plain.hidden = !alone || !two || !base.get(place.figure)?.plain || !place.figure.patches.length;
      if (place.plain.hidden) continue;
      Object.assign(place.plain.style, { width: `${place.width}px`, height: `${place.height}px` });
      paintPicture(new CanvasPainter(place.plain, place.width, place.height, scale), place.figure, at, inks);
    }
    found.scales.forEach((each, i) => {
      const bar = this.#scales.children[i].firstElementChild as HTMLCanvasElement;
      Object.assign(bar.style, { width: `${BAR_WIDTH}px`, height: `${BAR_HEIGHT}px` });
      paintBar(new CanvasPainter(bar, BAR_WIDTH, BAR_HEIGHT, scale), scene, found, each, 0, 0, inks);
    });
  }

  /** Frames, layers and output tokens in small. */
  #showStrips(scene: Scene, { figures }: Shown): void {
    void this.#own.pictures;
    while (this.#strips.length < Math.min(STRIPS, figures.length)) {
      const strips = KINDS.map(() => new Strip(this.#store));
      this.#strips.push(strips);
      this.#below.append(...strips.map(({ element }) => element));
    }
    this.#strips.forEach((strips, i) => {
      const maps = figures[i] && this.#own.width ? mapsOf(scene, figures[i]) : [];
      strips.forEach((strip, kind) => {
        const found = maps[kind] ?? null;
        if (found && figures.length > 1)
          found.title = `${caption(figures[i], scene, shown(scene)).split(":")[0]}: ${found.title}`;
        strip.update(found, scene, this.#own.width);
      });
    });
  }

  #showTexts(scene: Scene, found: Shown): void {
    if (!found.figures.length) return;
    for (const { figure, canvas, caption: below } of this.#places) {
      canvas.setAttribute("aria-label", described(figure, scene, found));
      const missing = trouble(figure);
      below.replaceChildren(
        ...(missing ? [h("span.picture-missing", {}, missing)] : []),
        caption(figure, scene, found),
      );
    }
    setText(this.#readout, readout(scene, found));
    found.scales.forEach((each, i) =>
      setText(this.#scales.children[i].lastElementChild!, scaleText(scene, found, each)),
    );
    setText(this.#note, unmasked(found) || boxText(scene, found));
    this.#note.hidden = !this.#note.textContent;
  }

  drawing = pictureDrawing;
  lines = pictureLines;
}
