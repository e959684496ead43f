/** What is selected, in words: the token, where it is, and its numbers in the selected layer. */

import "./selection.css";

import { beside } from "../core/beside.ts";
import { h } from "../core/dom.ts";
import { tokenIndex, type Scene, type View } from "../core/scene.ts";
import type { Store } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { exact, label } from "../core/tokens.ts";
import { variantName } from "../core/words.ts";
import { at } from "../data/types.ts";

export class SelectionView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #token = h("p.selection-token mono");
  #facts = h("p.muted");
  #numbers = h("dl.selection-numbers");
  #clear: HTMLElement;

  constructor(store: Store) {
    super();
    this.#clear = h("button.quiet", { onclick: () => store.set({ token: null, layer: null }) }, "clear");
    this.element = h(
      "section.selection",
      { "aria-labelledby": "selection-title" },
      h("div.selection-head", {}, h("h2", { id: "selection-title" }, "Selection"), this.#clear),
      this.#token,
      this.#facts,
      this.#numbers,
    );
    this.draws((scene) => this.#draw(scene));
  }

  #draw(scene: Scene): void {
    const { run, state } = scene;
    const place = tokenIndex(run, state.token),
      layer = state.layer === null ? -1 : run.layers.indexOf(state.layer);
    this.element.hidden = place < 0 && layer < 0;
    const token = run.tokens[place];
    this.#token.textContent = token ? label(token) : "";
    this.#token.hidden = !token;
    const where =
      token?.kind === "image" && token.row !== null
        ? `image token, row ${token.row}, column ${token.col} of image ${token.image ?? 0}`
        : token && `${token.kind} token${token.id === null ? "" : `, id ${token.id}`}`;
    const facts = [token && `position ${token.position}`, where, layer >= 0 && `layer ${state.layer}`];
    this.#facts.textContent = facts.filter(Boolean).join(" · ");
    const step = run.steps.indexOf(state.step),
      variant = run.variants.indexOf(state.variant);
    const numbers =
      place < 0 || layer < 0
        ? []
        : run.metrics.flatMap(({ name, title }) => [
            h("dt", {}, `${title}, ${variantName(state.variant)}`),
            h("dd", {}, exact(at(run, name, step, variant, layer, place)) || "no value"),
          ]);
    const more = token ? beside(scene, token) : [];
    this.#numbers.replaceChildren(
      ...numbers,
      ...more.flatMap(({ what, said }) => [h("dt", {}, what), h("dd", {}, said)]),
    );
  }
}
