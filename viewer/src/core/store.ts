/** Holds what is loaded and what is chosen, and tells the page when either has changed, at most once per frame. */

import { add, emptyLibrary, remove, resolve, resolveNeighbors, type Library } from "../data/pair.ts";
import { atQuery, usualQuery } from "../data/queries.ts";
import type { Loaded, Neighbors, Run, RunIndex } from "../data/types.ts";
import { positionsIn, type Pointed } from "./beside.ts";
import { lensScene, type LensScene } from "./lens.ts";
import { metricsOf } from "./metrics.ts";
import { strongestCell } from "./start.ts";
import { settled, type Scene } from "./scene.ts";
import { notWhileDrawing } from "./track.ts";
import { DEFAULTS, fromFragment, toFragment, type State } from "./state.ts";

const CROSS = "CrossFull";
const SELECTS = /(^|[#&])(token|layer)=/; // an address
const MANY_PATCHES = 64; // more would push the words out of the first look

/** What a view asks of the store, or of the part of it that is about one of several runs. */
export type Scenes = Pick<Store, "scene" | "state" | "set" | "hover">;

export class Store {
  #library: Library = emptyLibrary;
  #runs: Run[] = [];
  #neighbors: Neighbors[] = [];
  #index: RunIndex | null = null;
  #state: State;
  #hover: Pointed = { token: null, layer: null, of: 0 };
  #changed: () => void;
  #scheduled = false;
  #foldChosen: boolean;
  #variantChosen: boolean;
  /** Whether a token or a layer was chosen, or nothing on purpose; until then the strongest one is. */
  #selected: boolean;
  /** On paper, everything is light. */
  printing = false;
  /** While layers are played, prompt and ranking are of the layer that is shown, too. */
  #playing = false;

  constructor(fragment: string, changed: () => void) {
    this.#state = fromFragment(fragment);
    this.#foldChosen = fragment.includes("fold=");
    this.#variantChosen = fragment.includes("variant=");
    this.#selected = SELECTS.test(fragment);
    this.#changed = changed;
  }

  get library(): Library {
    return this.#library;
  }

  /** Everything that is loaded, with manifests and pictures in place. */
  get runs(): Run[] {
    notWhileDrawing("what the store has loaded");
    return this.#runs;
  }

  /** The state as chosen, before it is fitted to a run. */
  get state(): State {
    notWhileDrawing("the store's state");
    return this.#state;
  }

  /** What is to be shown; null before the first run is there. */
  get scene(): Scene | null {
    notWhileDrawing("the store's scene");
    if (!this.#runs.length) return null;
    const places = this.#state.runs.filter((place) => place < this.#runs.length);
    const shown = places.length ? places : [0];
    const first = this.#runs[shown[0]];
    const query = first.queries?.positions.includes(this.#state.query ?? -1) ? this.#state.query : usualQuery(first);
    const library = this.#runs.map((run) => atQuery(run, query)),
      runs = shown.map((place) => library[place]);
    const fitted = this.#settled({ ...this.#state, query, palette: this.#palette }, runs),
      { layer } = fitted;
    const state = this.#playing && layer !== null ? { ...fitted, from: layer, to: layer } : fitted;
    const found = positionsIn(runs, state, this.#hover);
    const [token, ...also] = found.selected[0];
    return {
      library,
      neighbors: this.#neighbors,
      runs,
      run: runs[0],
      state: { ...state, token, also: also.filter((position) => position !== null), of: 0 },
      hover: { token: found.pointed[0], layer: this.#hover.layer },
      ...found,
      dark: this.dark,
    };
  }

  /** What the run in front has; until something was chosen, with its strongest cell. */
  #settled(state: State, runs: Run[]): State {
    const chosen = settled(state, runs[0], metricsOf(runs)),
      { token, also, of } = state;
    if (this.#selected) return { ...chosen, token, also, of: of < runs.length ? of : 0 };
    return { ...chosen, also: [], of: 0, ...strongestCell({ runs, run: runs[0], state: chosen }) };
  }

  get #palette(): State["palette"] {
    const { palette } = this.#state;
    return palette === "tint" && this.dark ? "night" : palette;
  }

  /** What image tokens say; null before there are neighbours. */
  get lens(): LensScene | null {
    notWhileDrawing("the store's lens");
    const all = this.#neighbors;
    return all.length
      ? lensScene(
          all,
          all[this.#state.lens] ?? all[0],
          { ...this.#state, palette: this.#palette },
          this.scene,
          this.dark,
        )
      : null;
  }

  /** A folder of runs; null where none was given. */
  get index(): RunIndex | null {
    return this.#index;
  }

  get dark(): boolean {
    const { theme } = this.#state;
    if (this.printing) return false;
    return theme === "dark" || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  }

  /**
   * Take over what a file turned out to be. Returns a message for the user, or null. A run comes to the front, unless
   * the address has already said that it is to be shown.
   */
  add(item: Loaded): string | null {
    if (item.kind === "index") {
      this.#index = item.index;
      this.#schedule();
      return null;
    }
    const { library, runId, message } = add(this.#library, item);
    this.#take(library);
    if (item.kind === "neighbors" && this.#neighbors.length > 1)
      this.set({ lens: this.#neighbors.length - 1, patch: null });
    const place = this.#runs.findIndex(({ id }) => id === runId);
    if (place >= 0 && !this.#state.runs.includes(place)) {
      this.set({ runs: [place], token: null, layer: null });
      this.#selected = false;
    }
    // Of an encoder-decoder, the prompt's tokens have their values in cross-attention.
    if (!this.#variantChosen && this.#runs[place]?.variants.includes(CROSS))
      this.#state = { ...this.#state, variant: CROSS };
    const patches = this.#runs[place]?.tokens.filter(({ kind }) => kind === "image").length ?? 0;
    if (patches > MANY_PATCHES && !this.#foldChosen) this.#state = { ...this.#state, fold: true };
    return message;
  }

  remove(runId: string): void {
    const gone = this.#runs.findIndex(({ id }) => id === runId);
    const runs = this.#state.runs.filter((place) => place !== gone).map((place) => (place > gone ? place - 1 : place));
    this.#take(remove(this.#library, runId));
    this.set({ runs: runs.length ? runs : [0] });
  }

  /** Away with all runs: back to the index. */
  clear(): void {
    this.#take({ ...emptyLibrary, neighbors: this.#library.neighbors });
    this.set({ runs: [0], token: null, layer: null });
    this.#selected = false;
  }

  /** Away with the table of neighbours that is shown. */
  removeLens(): void {
    const gone = this.#library.neighbors[this.#state.lens] ?? this.#library.neighbors[0];
    this.#take({ ...this.#library, neighbors: this.#library.neighbors.filter((each) => each !== gone) });
    this.set({ lens: 0, patch: null });
  }

  #take(library: Library): void {
    this.#library = library;
    this.#runs = resolve(library);
    this.#neighbors = resolveNeighbors(library);
    this.#schedule();
  }

  set(patch: Partial<State>): void {
    this.#foldChosen ||= "fold" in patch;
    this.#variantChosen ||= "variant" in patch;
    this.#selected ||= "token" in patch || "layer" in patch;
    // One token in place of all that were selected, of the run in front where no other one is named; and of a video its frame.
    const alone = "token" in patch ? { also: [], of: 0 } : {},
      frame = patch.token == null ? {} : { frame: null };
    this.#state = { ...this.#state, ...alone, ...frame, ...patch };
    this.#schedule();
  }

  /** Take over a fragment, of an address that was changed by hand or by going back. */
  read(fragment: string): void {
    if (fragment.replace(/^#/, "") === this.fragment) return;
    this.#state = fromFragment(fragment);
    this.#selected = SELECTS.test(fragment);
    this.#schedule();
  }

  set playing(playing: boolean) {
    if (playing === this.#playing) return;
    this.#playing = playing;
    this.#schedule();
  }

  hover({ token = null, layer = null, of = 0 }: Partial<Pointed> = {}): void {
    const before = this.#hover;
    if (token === before.token && layer === before.layer && (of === before.of || token === null)) return;
    this.#hover = { token, layer, of };
    this.#schedule();
  }

  /** The state as it belongs into the address of the page. */
  get fragment(): string {
    const text = toFragment(this.#state);
    if (this.#state.variant !== DEFAULTS.variant || !this.#runs.some(({ variants }) => variants.includes(CROSS)))
      return text;
    return [text, `variant=${DEFAULTS.variant}`].filter(Boolean).join("&");
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#changed();
    });
  }
}
