/** What the heat map shows and how: metric, variant, scale, rows. Native inputs, so keyboard and labels come free. */

import "./controls.css";

import { h } from "../core/dom.ts";
import { brief, metricOf, metricsOf } from "../core/metrics.ts";
import type { Scene, View } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { isDifference, isHead, variantName } from "../core/words.ts";

type Choices<Key extends keyof State> = [value: State[Key] & string, text: string][];

export class ControlsView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #store: Store;
  /** One line for what is chosen, on a narrow screen; else the controls are always open, and it is not there. */
  #summary = h("summary");

  constructor(store: Store) {
    super();
    this.#store = store;
    const palette = this.#choice("Palette", "palette", [
      ["cividis", "cividis"],
      ["viridis", "viridis"],
    ]);
    this.draws(({ state, runs }) => {
      palette.disabled = isDifference(state, runs);
      palette.title = palette.disabled ? "A difference has colours of its own: purple for less, orange for more" : "";
    });
    const all = h(
      "div.controls-all",
      {},
      this.#metrics(),
      this.#variants(),
      h(
        "div.controls-scale",
        {},
        this.#choice("Scale", "range", [
          ["all", "all"],
          ["row", "row"],
        ]),
        this.#choice("Curve", "curve", [
          ["linear", "linear"],
          ["sqrt", "√"],
        ]),
      ),
      this.#choice("Rows", "rows", [
        ["layers", "layers"],
        ["tokens", "tokens"],
      ]),
      this.#check(
        "first",
        "position 0",
        "Position 0, which often just absorbs attention, counts for the colour scale",
        () => true,
      ),
      this.#check(
        "fold",
        "fold images",
        "All patches of an image as one column, with the largest of their values",
        ({ runs }) => runs.some((run) => run.tokens.some(({ kind }) => kind === "image")),
      ),
      palette,
    );
    const details = h("details", {}, this.#summary, all),
      narrow = matchMedia("(max-width: 720px)");
    const fit = () => (details.open = !narrow.matches);
    narrow.addEventListener("change", fit);
    fit();
    this.draws((scene) => this.#summarize(scene));
    this.element = h("section.controls", { "aria-label": "What is shown" }, details);
  }

  #summarize({ run, state }: Scene): void {
    const { metric, variant, range, curve, step } = state;
    const parts = [
      brief(metricOf(run, { metric })),
      variantName(variant),
      `scale ${range}${curve === "sqrt" ? ", √" : ""}`,
      `step ${run.steps.indexOf(step) + 1} of ${run.steps.length}`,
    ];
    this.#summary.textContent = parts.join(" · ");
  }

  /** One button for each metric that all shown runs have. */
  #metrics(): HTMLElement {
    const buttons = h("span.choice-buttons");
    const fill = ({ runs }: Scene) => {
      const inputs = metricsOf(runs).map((metric) => {
        const { name } = metric,
          onchange = () => this.#store.set({ metric: name });
        const input = h("input", { type: "radio", name: "choice-metric", value: name, onchange });
        return h("label", {}, input, h("span", {}, brief(metric)));
      });
      buttons.replaceChildren(...inputs);
    };
    this.draws(fill, ({ state }) => {
      for (const input of buttons.querySelectorAll("input")) input.checked = input.value === state.metric;
    });
    return h("fieldset", { class: "choice choice-metric" }, h("legend", {}, "Metric"), buttons);
  }

  #choice<Key extends "range" | "curve" | "rows" | "palette">(
    title: string,
    key: Key,
    choices: Choices<Key>,
  ): HTMLFieldSetElement {
    const inputs = choices.map(([value]) =>
      h("input", { type: "radio", name: `choice-${key}`, value, onchange: () => this.#store.set({ [key]: value }) }),
    );
    this.draws(({ state }) => inputs.forEach((input) => (input.checked = input.value === state[key])));
    const buttons = inputs.map((input, i) => h("label", {}, input, h("span", {}, choices[i][1])));
    return h("fieldset", { class: `choice choice-${key}` }, h("legend", {}, title), ...buttons);
  }

  #check(key: "first" | "fold", text: string, title: string, applies: (scene: Scene) => boolean): HTMLElement {
    const input = h("input", { type: "checkbox", onchange: () => this.#store.set({ [key]: input.checked }) });
    const element = h("label.check", { title }, input, text);
    this.draws((scene) => {
      input.checked = scene.state[key];
      element.hidden = !applies(scene);
    });
    return element;
  }

  /** Full and Attn are buttons, heads a list: there may be 64. */
  #variants(): HTMLElement {
    const radios = h("span.choice-buttons");
    const select = h("select", { "aria-label": "Head", onchange: () => this.#store.set({ variant: select.value }) });
    const fill = ({ run: { variants } }: Scene) => {
      const heads = variants.filter(isHead);
      radios.replaceChildren(
        ...variants
          .filter((variant) => !isHead(variant))
          .map((variant) => {
            const onchange = () => this.#store.set({ variant });
            const input = h("input", { type: "radio", name: "choice-variant", value: variant, onchange });
            return h("label", {}, input, h("span", {}, variantName(variant)));
          }),
      );
      select.replaceChildren(
        h("option", { value: "", disabled: true }, "Head …"),
        ...heads.map((variant) => h("option", { value: variant }, variantName(variant))),
      );
      select.hidden = !heads.length;
    };
    this.draws(fill, ({ state }) => {
      for (const input of radios.querySelectorAll("input")) input.checked = input.value === state.variant;
      select.value = isHead(state.variant) ? state.variant : "";
      select.classList.toggle("chosen", select.value !== "");
    });
    return h("fieldset.choice", {}, h("legend", {}, "Show"), radios, select);
  }
}
