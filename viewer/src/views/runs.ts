/** The loaded runs, once there are several: which are shown, how they are compared, and away with one. */

import "./runs.css";

import { h } from "../core/dom.ts";
import type { Scene, View } from "../core/scene.ts";
import type { Store } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import type { State } from "../core/state.ts";
import { modelName } from "../core/words.ts";

export class RunsView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #store: Store;
  #list = h("ul");
  #modes: HTMLElement;
  #inputs: HTMLInputElement[];
  #swap: HTMLElement;
  #alignment: HTMLElement;
  #aligned: HTMLInputElement[];

  constructor(store: Store) {
    super();
    this.#store = store;
    const modes: [State["compare"], string][] = [
      ["side", "side by side"],
      ["difference", "difference"],
    ];
    this.#inputs = modes.map(([value]) =>
      h("input", { type: "radio", name: "choice-compare", value, onchange: () => store.set({ compare: value }) }),
    );
    this.#swap = h("button.quiet", { onclick: () => this.#reverse() }, "swap");
    this.#modes = h(
      "fieldset.choice",
      {},
      h("legend", {}, "Compare"),
      ...this.#inputs.map((input, i) => h("label", {}, input, h("span", {}, modes[i][1]))),
      this.#swap,
    );
    const aligned: [State["align"], string, string][] = [
      ["token", "token", "The same tokens, in the same order"],
      ["position", "position", "Whatever stands at the same position: circle → square"],
    ];
    this.#aligned = aligned.map(([value]) =>
      h("input", { type: "radio", name: "choice-align", value, onchange: () => store.set({ align: value }) }),
    );
    this.#alignment = h(
      "fieldset.choice",
      {},
      h("legend", {}, "Match by"),
      ...this.#aligned.map((input, i) => h("label", { title: aligned[i][2] }, input, h("span", {}, aligned[i][1]))),
    );
    this.element = h(
      "section.runs",
      { "aria-label": "Loaded runs" },
      h("span.muted", {}, "Runs"),
      this.#list,
      this.#modes,
      this.#alignment,
    );
    this.draws((scene) => this.#choose(scene));
    this.draws((scene) => this.#fill(scene));
  }

  #choose({ library, runs, state }: Scene): void {
    this.element.hidden = library.length < 2;
    this.#modes.hidden = this.#alignment.hidden = runs.length < 2;
    document.documentElement.style.setProperty("--runs", String(Math.min(3, runs.length))); // room for a line about each
    for (const input of this.#inputs) {
      input.disabled = input.value === "difference" && runs.length > 2;
      input.checked = input.value === (runs.length > 2 ? "side" : state.compare);
    }
    for (const input of this.#aligned) input.checked = input.value === state.align;
  }

  #fill({ library, runs }: Scene): void {
    const focused = (document.activeElement as HTMLElement | null)?.dataset.run;
    this.#list.replaceChildren(
      ...library.map((run, place) => {
        const order = runs.indexOf(run);
        const twins = library.filter(({ name }) => name === run.name).length > 1;
        const name = twins ? `${run.name} (${run.source.fileName})` : run.name;
        const check = h("input", {
          type: "checkbox",
          "data-run": run.id,
          "aria-label": `Show ${name}`,
          onchange: () => this.#toggle(place),
        });
        check.checked = order >= 0;
        const only = h(
          "button",
          {
            class: order >= 0 ? "quiet runs-shown" : "quiet",
            title: `Show only ${name}${modelName(run) && ` (${modelName(run)})`}`,
            onclick: () => this.#store.set({ runs: [place] }),
          },
          runs.length > 1 && order >= 0 ? `${order + 1}. ${name}` : name,
        );
        const away = h(
          "button.quiet",
          { "aria-label": `Remove ${name}`, title: "Remove", onclick: () => this.#store.remove(run.id) },
          "×",
        );
        return h("li", {}, check, only, away);
      }),
    );
    if (focused) this.#list.querySelector<HTMLElement>(`[data-run="${focused}"]`)?.focus();
  }

  #toggle(place: number): void {
    const { library, runs } = this.#store.scene!;
    const shown = runs.map((run) => library.indexOf(run));
    const next = shown.includes(place) ? shown.filter((each) => each !== place) : [...shown, place];
    this.#store.set({ runs: next.length ? next : [place] });
  }

  #reverse(): void {
    const { runs, of } = this.#store.state;
    this.#store.set({ runs: [...runs].reverse(), of: Math.max(0, runs.length - 1 - of) });
  }
}
