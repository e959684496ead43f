/** First lines of the page: whose run this is, what to know about it, and the tokens of the answer, of which one is shown. */

import "./header.css";

import { h } from "../core/dom.ts";
import { promptText } from "../core/prompt-text.ts";
import type { Scene, View } from "../core/scene.ts";
import type { Scenes } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { label, unspaced } from "../core/tokens.ts";
import { isDifference, limits, modelName, percent, predicted } from "../core/words.ts";
import { plainToken } from "../data/cube.ts";
import { usualQuery } from "../data/queries.ts";
import type { Run } from "../data/types.ts";

/** To the output token before or after the present one. */
export function toStep(scenes: Scenes, by: number): void {
  const { run, state } = scenes.scene!; // not the one drawn last: keys may come faster than frames
  const step = run.steps[run.steps.indexOf(state.step) + by];
  if (step !== undefined) scenes.set({ step });
}

/** To the position that reads before or after the present one. */
export function toQuery(scenes: Scenes, by: number): void {
  const { run, state } = scenes.scene!,
    { positions = [] } = run.queries ?? {};
  const now = state.query === null ? (by < 0 ? positions.length : -1) : positions.indexOf(state.query);
  if (positions.length) scenes.set({ query: positions[now + by] ?? null });
}

export class HeaderView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #title = h("h1");
  #facts = h("p.header-facts muted");
  #limits = h("ul.header-limits");
  #notes = h("ul");
  #noteCount = h("summary");
  #noted = h("details.header-notes", {}, this.#noteCount, this.#notes);

  constructor(buttons: HTMLElement) {
    super();
    this.element = h(
      "header.header",
      {},
      h("div.header-top", {}, this.#title, this.#facts, buttons),
      this.#limits,
      this.#noted,
    );
    this.draws((scene) => this.#showRuns(scene));
  }

  #showRuns({ runs, state }: Scene): void {
    const difference = isDifference(state, runs);
    const of = (run: Run) => (runs.length > 1 ? `${run.name}: ` : "");
    this.#title.textContent = runs.map(({ name }) => name).join(difference ? " and " : ", ");
    this.#facts.replaceChildren(...runs.map((run) => h("span", {}, of(run) + facts(run))));
    const notes = runs.flatMap((run) => [...run.notes, ...(run.manifest?.notes ?? [])].map((note) => of(run) + note));
    const shown = runs.flatMap((run) => limits(run).map((limit) => of(run) + limit));
    this.#limits.replaceChildren(...shown.map((text) => h("li", {}, text)));
    this.#noted.hidden = !notes.length;
    const count = notes.length === 1 ? "1 note" : `${notes.length} notes`;
    this.#noteCount.textContent = `${count} about ${runs.length > 1 ? "these runs" : "this run"}`;
    this.#notes.replaceChildren(...notes.map((text) => h("li", {}, text)));
  }
}

/** The tokens of the answer, one of which is shown; and which position reads, where others were measured. */
export class AnswerView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #store: Scenes;
  #chips = h("div.answer-chips", { role: "group", "aria-label": "Output tokens" });
  #step = h("output.header-step muted");
  #query = h("select", {
    onchange: () => this.#store.set({ query: this.#query.value === "" ? null : Number(this.#query.value) }),
  });
  #read = h("label.header-steps", {}, "read at", this.#query);
  #back: HTMLButtonElement;
  #on: HTMLButtonElement;
  #steps: HTMLElement;

  constructor(store: Scenes) {
    super();
    this.#store = store;
    this.#back = h("button.quiet", { "aria-label": "Previous step", onclick: () => toStep(store, -1) }, "‹");
    this.#on = h("button.quiet", { "aria-label": "Next step", onclick: () => toStep(store, 1) }, "›");
    this.#steps = h(
      "div.header-steps",
      { role: "group", "aria-label": "Generation step" },
      this.#back,
      this.#step,
      this.#on,
    );
    this.element = h(
      "div.answer",
      {},
      h("span.answer-arrow muted", { "aria-hidden": "true" }, "→"),
      this.#chips,
      this.#steps,
      this.#read,
    );
    this.draws(
      ({ run }) => this.#build(run),
      (scene) => this.#show(scene),
    );
  }

  #build(run: Run): void {
    this.#chips.replaceChildren(
      ...run.steps.map((step) => {
        const token = predicted(run, step);
        const name = token?.text === undefined ? `step ${step + 1}` : label(plainToken(0, token.text), 40);
        const chance = token?.probability === undefined ? "" : `p ${percent(token.probability)}`;
        const chip = h(
          "button.answer-chip",
          {
            "data-step": step,
            onclick: () => this.#store.set({ step, query: usualQuery(run) }),
            "aria-label": `Output token ${name}`,
            title: chance,
          },
          h("span.mono", {}, unspaced(name)),
        );
        return h("span", {}, chip, chance && h("span.answer-chance muted", {}, chance));
      }),
    );
    const names = new Map(promptText(run).tokens.map(({ info }) => [info.position, label(info, 20)]));
    this.#query.replaceChildren(
      usualQuery(run) === null ? h("option", { value: "" }, "the predicting position") : "",
      ...(run.queries?.positions ?? []).map((position) =>
        h("option", { value: position }, `${position} ${names.get(position) ?? ""}`),
      ),
    );
  }

  #show({ run, state }: Scene): void {
    const place = run.steps.indexOf(state.step);
    for (const chip of this.#chips.querySelectorAll<HTMLElement>("button")) {
      const chosen = Number(chip.dataset.step) === state.step && state.query === usualQuery(run);
      chip.setAttribute("aria-pressed", String(chosen));
      (chip.nextElementSibling as HTMLElement | null)?.toggleAttribute("hidden", !chosen);
    }
    this.#step.textContent = `Step ${place + 1} of ${run.steps.length}`;
    this.#steps.hidden = run.steps.length === 1 || state.query !== null; // a position that reads belongs to one step
    this.#back.disabled = place === 0;
    this.#on.disabled = place === run.steps.length - 1;
    this.#read.hidden = !run.queries;
    this.#query.value = String(state.query ?? "");
  }
}

function facts(run: Run): string {
  const { model, mask_mode: mode } = run.manifest ?? {};
  const heads = run.variants.filter((variant) => variant.startsWith("Head_")).length;
  return [
    modelName(run) + (model?.family && model.family !== modelName(run) ? ` (${model.family})` : ""),
    `${run.layers.length} layer${run.layers.length === 1 ? "" : "s"}${heads ? ` × ${heads} head${heads === 1 ? "" : "s"}` : ""}`,
    tokens(run),
    mode && mode !== "text" ? `masked: ${mode === "both" ? "text and image tokens" : "image tokens"}` : "",
    run.manifest ? "" : `no manifest (${run.name}_run.json), so no model, kinds of tokens or predictions`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** "16 prompt tokens + 2 generated, 17 masked": prompt and generated, and how many of them were masked. */
function tokens(run: Run): string {
  const { prompt_length: length, decoder_start: start, generated } = run.manifest ?? {};
  const masked = run.tokens.length;
  if (!length) return `${masked} tokens masked`;
  const prompt = start === undefined ? `${length} prompt tokens` : `${start} prompt tokens + start token`;
  return `${prompt} + ${generated?.length ?? 0} generated, ${masked} masked`;
}
