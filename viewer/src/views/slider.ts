/** A slider with its value in words; the one that goes through the layers, by itself if wanted; and the one over pictures. */

import "./slider.css";

import { h } from "../core/dom.ts";
import { DEFAULTS, type State } from "../core/state.ts";
import type { Store } from "../core/store.ts";

const PLAY_MS = 500;

/** What a player goes through, as it is when asked: how many places, where it stands, where playing begins anew. */
interface Track {
  places: number;
  at: number;
  first: number;
  choose: (place: number) => void;
}

/** A slider over places, and a button that goes through them by itself. */
export class Player {
  readonly elements: HTMLElement[];
  readonly #slider: Slider;
  readonly #what: string;
  readonly #track: () => Track;
  readonly #playing: (on: boolean) => void;
  #play = h("button", { onclick: () => (this.#timer ? this.stop() : this.#start()) });
  #timer = 0;
  #played = -1; // place that playing has set last

  /**
   * `what`: "layers", for the button. `playing` is told when playing begins and ends, which can be while a part is drawn:
   * it may not ask the store.
   */
  constructor(id: string, name: string, what: string, track: () => Track, playing: (on: boolean) => void = () => {}) {
    this.#what = what;
    this.#track = track;
    this.#playing = playing;
    this.#slider = slider(id, name);
    this.elements = [this.#slider.label, this.#play];
    this.#slider.input.oninput = () => track().choose(this.#slider.input.valueAsNumber);
    matchMedia("(prefers-reduced-motion: reduce)").addEventListener("change", ({ matches }) => matches && this.stop());
    this.#label();
  }

  /** `text`: what is shown, "layer 3". A place that was chosen elsewhere ends playing. */
  show(places: number, at: number, text: string): void {
    if (at !== this.#played) this.stop();
    setSlider(this.#slider, places - 1, at, text);
  }

  set hidden(hidden: boolean) {
    for (const element of this.elements) element.hidden = hidden;
    if (hidden) this.stop();
  }

  #start(): void {
    const go = () => {
      const { places, at } = this.#track();
      return at + 1 < places ? this.#go(at + 1) : this.stop();
    };
    const { places, at, first } = this.#track();
    this.#played = at;
    this.#playing(true);
    this.#timer = window.setInterval(go, PLAY_MS);
    if (at === places - 1) this.#go(first);
    else go();
    this.#label();
  }

  #go(place: number): void {
    this.#played = place;
    this.#track().choose(place);
  }

  stop(): void {
    if (!this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#playing(false);
    this.#label();
  }

  #label(): void {
    this.#play.textContent = this.#timer ? "❚❚ Pause" : `▶ Play ${this.#what}`;
  }
}

/** Whose layers are played: those of the run in front, or of the neighbours. */
interface Layered {
  run: { layers: number[] };
  state: { layer: number | null };
}

/** Chooses the layer of the page; with `joined` its first place is no layer, that is all of them together. */
export class LayerPlayer extends Player {
  #joined: number;

  constructor(store: Store, id: string, read = (): Layered => store.scene!, joined = true) {
    const none = Number(joined);
    const track = () => {
      const { run, state } = read();
      const choose = (place: number) => store.set({ layer: place < none ? null : run.layers[place - none] });
      return { places: run.layers.length + none, at: placeOf(run, state) + none, first: none, choose };
    };
    super(id, "Layer", "layers", track, (on) => void (store.playing = on));
    this.#joined = none;
  }

  /** `text`: what is shown, "layer 3". */
  update({ run, state }: Layered, text: string): void {
    this.show(run.layers.length + this.#joined, placeOf(run, state) + this.#joined, text);
  }
}

const placeOf = ({ layers }: Layered["run"], { layer }: Layered["state"]) =>
  layer === null ? -1 : layers.indexOf(layer);

/** How much colour is over a picture, and a button that takes all of it away or brings it back. */
export class OpacityControl {
  readonly label: HTMLElement;
  readonly alone: HTMLElement;
  #key: Shade;
  #slider: Slider;
  #before: number; // of the colour, before the picture was alone

  constructor(store: Store, id: string, alone: string, key: Shade) {
    this.#key = key;
    this.#before = DEFAULTS[key];
    this.#slider = slider(id, "Colour over picture");
    const { label, input, output } = this.#slider;
    this.label = label;
    output.className = "sliders__share";
    input.step = "5";
    input.oninput = () => store.set({ [key]: input.valueAsNumber / 100 });
    const toggle = () => {
      const now = store.state[key];
      if (now > 0) this.#before = now;
      store.set({ [key]: now > 0 ? 0 : this.#before });
    };
    this.alone = h("button", { onclick: toggle }, alone);
  }

  /** `isOver`: there is a picture under the colour. */
  update(state: Pick<State, Shade>, isOver: boolean): void {
    const part = state[this.#key];
    this.alone.setAttribute("aria-pressed", String(part === 0));
    this.alone.hidden = this.label.hidden = !isOver;
    setSlider(this.#slider, 100, Math.round(100 * part), `${Math.round(100 * part)} %`);
  }
}

type Shade = "opacity" | "wash";

export interface Slider {
  label: HTMLLabelElement;
  input: HTMLInputElement;
  output: HTMLOutputElement;
}

export function slider(id: string, text: string): Slider {
  const input = h("input", { type: "range", id, min: 0, step: 1 });
  const output = h("output", { for: id, "aria-live": "off" }); // the slider itself tells its value
  return { label: h("label", { for: id }, text, input, output), input, output };
}

export function setSlider({ input, output }: Slider, last: number, value: number, text: string): void {
  if (input.max !== String(last)) input.max = String(last);
  if (input.valueAsNumber !== value) input.valueAsNumber = value;
  if (output.textContent === text) return;
  output.textContent = text;
  input.setAttribute("aria-valuetext", text);
}
