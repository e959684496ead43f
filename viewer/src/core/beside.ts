/** Several runs side by side: for each the scene of it alone, and its part of the store. */

import type { Run } from "../data/types.ts";
import { carried } from "./align.ts";
import type { Hover, Scene } from "./scene.ts";
import { withState, type State } from "./state.ts";
import type { Scenes, Store } from "./store.ts";
import { isDifference, modelName } from "./words.ts";

/** What the pointer is over, and in the positions of which of the shown runs. */
export type Pointed = Hover & { of: number };

/** What is selected and pointed at, in every shown run; and the runs that are next to each other. */
export function positionsIn(
  runs: Run[],
  state: State,
  { token, of }: Pointed,
): Pick<Scene, "selected" | "pointed" | "beside"> {
  const { align } = state,
    wanted = [state.token, ...state.also];
  const from = (place: number) => runs[place] ?? runs[0];
  return {
    selected: runs.map((run) => wanted.map((position) => carried(from(state.of), run, align, position))),
    // A token that was not masked has no counterpart, but the pointer is over it.
    pointed: runs.map((run, i) => carried(from(of), run, align, token) ?? (i === of ? token : null)),
    beside: isDifference(state, runs) ? runs.slice(0, 1) : runs,
  };
}

/**
 * The scene of the run at a place among those that are shown next to each other. What it has of the whole scene is read when
 * it is asked for, so that a part of a view depends on nothing that it does not read.
 */
export function besideScene(scene: Scene, place: number): Scene {
  if (scene.beside.length < 2) return scene;
  const run = scene.beside[place];
  let state: State | undefined;
  const own: Partial<Record<keyof Scene, () => unknown>> = {
    run: () => run,
    runs: () => [run],
    state: () => (state ??= stateOf(scene, place)),
    hover: () => ({ token: scene.pointed[place], layer: scene.hover.layer }),
  };
  const made = {};
  for (const key of Object.keys(scene) as (keyof Scene)[])
    Object.defineProperty(made, key, { enumerable: true, get: own[key] ?? (() => scene[key]) });
  return made as Scene;
}

function stateOf({ state, selected }: Scene, place: number): State {
  const [token, ...also] = selected[place];
  return withState(state, { token, also: also.filter((position) => position !== null) });
}

/** Runs whose numbers are on one scale with those of a run: those next to it of the same model. */
export const onOneScale = ({ run, beside = [] }: { run: Run; beside?: Run[] }): Run[] =>
  beside.includes(run) ? beside.filter((other) => modelName(other) === modelName(run)) : [run];

/** The same for listeners; positions that are chosen are those of this run. */
export class BesideStore implements Scenes {
  readonly #store: Store;
  readonly #place: number;

  constructor(store: Store, place: number) {
    this.#store = store;
    this.#place = place;
  }

  get scene(): Scene | null {
    const { scene } = this.#store;
    return scene && this.#place < scene.beside.length ? besideScene(scene, this.#place) : null;
  }

  get state(): State {
    return this.#store.state;
  }

  set(patch: Partial<State>): void {
    this.#store.set("token" in patch ? { ...patch, of: this.#place } : patch);
  }

  hover(hover: Partial<Hover> = {}): void {
    this.#store.hover({ ...hover, of: this.#place });
  }
}
