/** A slider with its value in words; the one that goes through the layers, by itself if wanted; and the one over pictures. */

import "./slider.css";

import { h } from "../core/dom.ts";
import { DEFAULTS, type State } from "../core/state.ts";
import type { Store } from "../core/store.ts";

const PLAY_MS = 500;

/** Whose layers are played: those of the run in front, or of the neighbours. */
interface Layered {
  run: { layers: number[] };
  state: { layer: number | null };
}

/** Chooses the layer of the page; with `joined` its first place is no layer, that is all of them together. */
export class LayerPlayer {
  readonly elements: HTMLElement[];
  #store: Store;
  #slider: Slider;
  #play = h("button", { onclick: () => (this.#timer ? this.stop() : this.#start()) });
  #timer = 0;
  #played: number | null = null; // layer that playing has set last
  #read: () => Layered;
  #joined: number;

  constructor(store: Store, id: string, read = (): Layered => store.scene!, joined = true) {
    this.#store = store;
    this.#read = read;
    this.#joined = Number(joined);
    this.#slider = slider(id, "Layer");
    this.elements = [this.#slider.label, this.#play];
    this.#slider.input.oninput = () => {
      const place = this.#slider.input.valueAsNumber - this.#joined;
      store.set({ layer: place < 0 ? null : this.#read().run.layers[place] });
    };
    matchMedia("(prefers-reduced-motion: reduce)").addEventListener("change", ({ matches }) => matches && this.stop());
    this.#label();
  }

  /** `text`: what is shown, "layer 3". A layer that was chosen elsewhere ends playing. */
  update({ run, state }: Layered, text: string): void {
    if (state.layer !== this.#played) this.stop();
    const place = state.layer === null ? -1 : run.layers.indexOf(state.layer);
    setSlider(this.#slider, run.layers.length - 1 + this.#joined, place + this.#joined, text);
  }

  #start(): void {
    const go = () => {
      const {
        run: { layers },
        state: { layer },
      } = this.#read();
      const next = layer === null ? 0 : layers.indexOf(layer) + 1;
      if (next >= layers.length) return this.stop();
      this.#show(layers[next]);
    };
    const {
      run: { layers },
      state,
    } = this.#read();
    this.#played = state.layer;
    this.#store.playing = true;
    this.#timer = window.setInterval(go, PLAY_MS);
    if (this.#played === layers.at(-1)) this.#show(layers[0]);
    else go();
    this.#label();
  }

  #show(layer: number): void {
    this.#played = layer;
    this.#store.set({ layer });
  }

  stop(): void {
    if (!this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#store.playing = false;
    this.#label();
  }

  #label(): void {
    this.#play.textContent = this.#timer ? "❚❚ Pause" : "▶ Play layers";
  }
}

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
