/** What the heat map shows and how: metric, variant, scale, rows. Native inputs, so keyboard and labels come free. */

import "./controls.css";

import { JOINED } from "../core/aggregate.ts";
import { h } from "../core/dom.ts";
import { brief, metricsOf } from "../core/metrics.ts";
import { layerRange } from "../core/prompt-text.ts";
import type { Scene, View } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { isDifference, isHead, variantName } from "../core/words.ts";
import { setSlider, slider } from "./slider.ts";

type Choices<Key extends keyof State> = [value: State[Key] & string, text: string][];

export class ControlsView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #store: Store;

  constructor(store: Store) {
    super();
    this.#store = store;
    const palette = this.#choice("Palette", "palette", [
      ["tint", "tint"],
      ["cividis", "cividis"],
      ["viridis", "viridis"],
    ]);
    this.draws(({ state, runs }) => {
      palette.disabled = isDifference(state, runs);
      palette.title = palette.disabled ? "A difference has colours of its own: purple for less, orange for more" : "";
    });
    const images = ({ runs }: Scene) => runs.some((run) => run.tokens.some(({ kind }) => kind === "image"));
    const first = "Position 0, which often just absorbs attention, counts for the colour scale";
    const folded = "All patches of an image as one column, with the largest of their values";
    const menu = h(
      "details.controls-view",
      {},
      h("summary", {}, "View"),
      h(
        "div.controls-menu",
        {},
        this.#layers(),
        this.#choice("Scale", "range", [
          ["all", "all"],
          ["row", "row"],
        ]),
        this.#choice("Curve", "curve", [
          ["linear", "linear"],
          ["sqrt", "√"],
          ["rank", "percentile"],
        ]),
        this.#choice("Rows", "rows", [
          ["layers", "layers"],
          ["tokens", "tokens"],
        ]),
        palette,
        this.#threshold(),
        this.#check("first", "position 0", first, () => true),
        this.#check("fold", "fold images", folded, images),
      ),
    );
    // As a menu does: a click elsewhere, or Escape, closes it.
    document.addEventListener("pointerdown", ({ target }) => menu.contains(target as Node) || (menu.open = false));
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      event.stopPropagation();
      menu.open = false;
      menu.querySelector("summary")!.focus();
    });
    this.element = h(
      "section.controls",
      { "aria-label": "What is shown" },
      this.#metrics(),
      this.#variants(),
      this.#shade(),
      menu,
    );
  }

  /** How the layers of a token become one number: in the prompt, the ranking, the picture. */
  #layers(): HTMLElement {
    const select = (name: string, which: "from" | "to") =>
      h("select", { "aria-label": name, onchange: () => this.#setLayers(from, to, which) });
    const [from, to] = [select("First layer that counts", "from"), select("Last layer that counts", "to")];
    const join = this.#choice("Joined by", "join", [
      ["root", JOINED.root],
      ["max", JOINED.max],
      ["mean", JOINED.mean],
    ]);
    join.append(h("span.controls-layers", {}, " of layers ", from, " to ", to));
    const fill = ({ run }: Scene) => {
      for (const each of [from, to])
        each.replaceChildren(...run.layers.map((layer) => h("option", { value: layer }, String(layer))));
    };
    this.draws(fill, ({ run, state }) => {
      [from.value, to.value] = layerRange(run, state).map(String);
    });
    return join;
  }

  #setLayers(first: HTMLSelectElement, last: HTMLSelectElement, which: "from" | "to"): void {
    const { layers } = this.#store.scene!.run;
    let [from, to] = [Number(first.value), Number(last.value)];
    if (which === "from") to = Math.max(to, from);
    else from = Math.min(from, to);
    this.#store.set({ from: from === layers[0] ? null : from, to: to === layers.at(-1) ? null : to });
  }

  #shade(): HTMLElement {
    const choice = this.#choice("Shade prompt and picture by", "shade", [
      ["impact", "impact"],
      ["effect", "effect"],
    ]);
    this.draws(({ run, runs, state }) => {
      choice.hidden = !run.effects || isDifference(state, runs);
    });
    return choice;
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

  #choice<Key extends "range" | "curve" | "rows" | "palette" | "join" | "shade">(
    title: string,
    key: Key,
    choices: Choices<Key>,
  ): HTMLFieldSetElement {
    const inputs = choices.map(([value]) =>
      h("input", { type: "radio", name: `choice-${key}`, value, onchange: () => this.#store.set({ [key]: value }) }),
    );
    const shown = (value: string) => (value === "night" ? "tint" : value);
    this.draws(({ state }) => inputs.forEach((input) => (input.checked = input.value === shown(state[key]))));
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

  /** Under which share of the largest value nothing is coloured. */
  #threshold(): HTMLElement {
    const { label, input, output } = slider("controls-least", "Colour from");
    Object.assign(input, { max: "95", step: "1" });
    input.oninput = () => this.#store.set({ least: input.valueAsNumber / 100 });
    this.draws(({ state }) => {
      const part = Math.round(100 * state.least);
      setSlider({ label, input, output }, 95, part, part ? `${part} % of the largest on` : "0");
    });
    return label;
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
