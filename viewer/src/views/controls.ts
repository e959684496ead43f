/** What the heat map shows and how: metric, variant, scale, rows. Native inputs, so keyboard and labels come free. */

import "./controls.css";

import { h } from "../core/dom.ts";
import type { Scene, View } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { isDifference, isHead, METRICS, variantName } from "../core/words.ts";

type Choices<Key extends keyof State> = [value: State[Key] & string, text: string][];

export class ControlsView implements View {
  readonly element: HTMLElement;
  #store: Store;
  #parts: ((scene: Scene) => void)[] = [];
  /** One line for what is chosen, on a narrow screen; else the controls are always open, and it is not there. */
  #summary = h("summary");

  constructor(store: Store) {
    this.#store = store;
    const palette = this.#choice("Palette", "palette", [
      ["cividis", "cividis"],
      ["viridis", "viridis"],
    ]);
    this.#parts.push(({ state, runs }) => {
      palette.disabled = isDifference(state, runs);
      palette.title = palette.disabled ? "A difference has colours of its own: purple for less, orange for more" : "";
    });
    const all = h(
      "div.controls-all",
      {},
      this.#choice("Metric", "metric", [
        ["l2", "L2"],
        ["cosine", "Cosine"],
      ]),
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
    this.element = h("section.controls", { "aria-label": "What is shown" }, details);
  }

  update(scene: Scene): void {
    for (const part of this.#parts) part(scene);
    const {
      run,
      state: { metric, variant, range, curve, step },
    } = scene;
    const parts = [
      METRICS[metric].replace(" distance", ""),
      variantName(variant),
      `scale ${range}${curve === "sqrt" ? ", √" : ""}`,
      `step ${run.steps.indexOf(step) + 1} of ${run.steps.length}`,
    ];
    this.#summary.textContent = parts.join(" · ");
  }

  #choice<Key extends "metric" | "range" | "curve" | "rows" | "palette">(
    title: string,
    key: Key,
    choices: Choices<Key>,
  ): HTMLFieldSetElement {
    const inputs = choices.map(([value]) =>
      h("input", { type: "radio", name: `choice-${key}`, value, onchange: () => this.#store.set({ [key]: value }) }),
    );
    this.#parts.push(({ state }) => inputs.forEach((input) => (input.checked = input.value === state[key])));
    const buttons = inputs.map((input, i) => h("label", {}, input, h("span", {}, choices[i][1])));
    return h("fieldset", { class: `choice choice-${key}` }, h("legend", {}, title), ...buttons);
  }

  #check(key: "first" | "fold", text: string, title: string, applies: (scene: Scene) => boolean): HTMLElement {
    const input = h("input", { type: "checkbox", onchange: () => this.#store.set({ [key]: input.checked }) });
    const element = h("label.check", { title }, input, text);
    this.#parts.push((scene) => {
      input.checked = scene.state[key];
      element.hidden = !applies(scene);
    });
    return element;
  }

  /** Full and Attn are buttons, heads a list: there may be 64. */
  #variants(): HTMLElement {
    const radios = h("span.choice-buttons");
    const select = h("select", { "aria-label": "Head", onchange: () => this.#store.set({ variant: select.value }) });
    let shown = "";
    this.#parts.push(({ run, state }) => {
      if (run.variants.join("\n") !== shown) {
        shown = run.variants.join("\n");
        const plain = run.variants.filter((variant) => !isHead(variant));
        const heads = run.variants.filter(isHead);
        radios.replaceChildren(
          ...plain.map((variant) => {
            const input = h("input", {
              type: "radio",
              name: "choice-variant",
              value: variant,
              onchange: () => this.#store.set({ variant }),
            });
            return h("label", {}, input, h("span", {}, variantName(variant)));
          }),
        );
        select.replaceChildren(
          h("option", { value: "", disabled: true }, "Head …"),
          ...heads.map((variant) => h("option", { value: variant }, variantName(variant))),
        );
        select.hidden = !heads.length;
      }
      for (const input of radios.querySelectorAll("input")) input.checked = input.value === state.variant;
      select.value = isHead(state.variant) ? state.variant : "";
      select.classList.toggle("chosen", select.value !== "");
    });
    return h("fieldset.choice", {}, h("legend", {}, "Show"), radios, select);
  }
}
