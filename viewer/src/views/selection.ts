/** What is selected, in words: the token, where it is, and its numbers in the selected layer. */

import "./selection.css";

import { h } from "../core/dom.ts";
import { factsBeside } from "../core/joined.ts";
import { titleOf } from "../core/metrics.ts";
import { scores } from "../core/prompt-text.ts";
import { tokenIndex, type Scene, type View } from "../core/scene.ts";
import { selectedIn } from "../core/select.ts";
import type { Scenes } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { exact, label, number } from "../core/tokens.ts";
import { layerText, variantName } from "../core/words.ts";
import { at } from "../data/types.ts";

export class SelectionView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #token = h("p.selection-token mono");
  #facts = h("p.muted");
  #numbers = h("dl.selection-numbers");
  #also = h("table.selection-also");
  #clear: HTMLElement;

  constructor(store: Scenes) {
    super();
    this.#clear = h("button.quiet", { onclick: () => store.set({ token: null, layer: null }) }, "clear");
    this.element = h(
      "section.selection",
      { "aria-label": "Selection" },
      h("div.selection-head", {}, h("h2", {}, "Selection"), this.#clear),
      this.#token,
      this.#facts,
      this.#numbers,
      this.#also,
    );
    this.draws((scene) => this.#draw(scene));
  }

  #draw(scene: Scene): void {
    const { run, state } = scene;
    const place = tokenIndex(run, state.token),
      layer = state.layer === null ? -1 : run.layers.indexOf(state.layer);
    this.element.hidden = place < 0 && layer < 0 && !state.also.length;
    this.#list(scene, layer);
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
    const more = token ? factsBeside(scene, token) : [];
    this.#numbers.replaceChildren(
      ...numbers,
      ...more.flatMap(({ what, said }) => [h("dt", {}, what), h("dd", {}, said)]),
    );
  }

  /** All selected tokens, each with its value in the layer, or with the layers joined. */
  #list(scene: Scene, layer: number): void {
    const { run, state } = scene,
      { value } = scores(scene),
      positions = state.also.length ? selectedIn(state) : [];
    const step = run.steps.indexOf(state.step),
      variant = run.variants.indexOf(state.variant);
    const rows = positions.map((position) => {
      const place = tokenIndex(run, position),
        here = layer < 0 ? value[place] : at(run, state.metric, step, variant, layer, place);
      return h(
        "tr",
        { "data-position": position },
        h("th.mono", { scope: "row" }, label(run.tokens[place], 24)),
        h("td", {}, String(position)),
        h("td", {}, number(here ?? NaN)),
      );
    });
    const what = `${titleOf(run, state)} of ${variantName(state.variant)}, ${layerText(state)}`;
    this.#also.replaceChildren(...(rows.length ? [h("caption", {}, what), ...rows] : []));
  }
}
