/** First lines of the page: whose run this is, what to know about it, what colour means, and the generation step. */

import "./header.css";

import { h } from "../core/dom.ts";
import { promptText } from "../core/prompt-text.ts";
import type { Scene, View } from "../core/scene.ts";
import type { Store } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { label } from "../core/tokens.ts";
import { isDifference, limits, meaning, modelName, percent, predicted } from "../core/words.ts";
import { plainToken } from "../data/cube.ts";
import { usualQuery } from "../data/queries.ts";
import type { Run } from "../data/types.ts";

const CONTEXT = 9; // tokens before the predicted one

export class HeaderView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #store: Store;
  #title = h("h1");
  #facts = h("p.header-facts muted");
  #limits = h("ul.header-limits");
  #notes = h("ul");
  #noteCount = h("summary");
  #noted = h("details.header-notes", {}, this.#noteCount, this.#notes);
  #meaning = h("p.header-meaning");
  #context = h("p.header-context mono", { "aria-label": "Text before the predicted token" });
  #step = h("output.header-step");
  #query = h("select", {
    onchange: () => this.#store.set({ query: this.#query.value === "" ? null : Number(this.#query.value) }),
  });
  #read = h("label.header-steps", {}, "read at", this.#query);
  #back: HTMLButtonElement;
  #on: HTMLButtonElement;

  constructor(store: Store, buttons: HTMLElement) {
    super();
    this.#store = store;
    this.#back = h("button.quiet", { "aria-label": "Previous step", onclick: () => this.step(-1) }, "‹");
    this.#on = h("button.quiet", { "aria-label": "Next step", onclick: () => this.step(1) }, "›");
    const steps = h(
      "div.header-steps",
      { role: "group", "aria-label": "Generation step" },
      this.#back,
      this.#step,
      this.#on,
    );
    this.element = h(
      "header.header",
      {},
      h("div.header-top", {}, this.#title, this.#facts, buttons),
      this.#limits,
      this.#noted,
      h("div.header-line", {}, this.#context, steps, this.#read),
      this.#meaning,
    );
    this.draws(
      (scene) => this.#showRuns(scene),
      (scene) => this.#showSteps(scene), // the choice of positions is there
      (scene) => this.#showContext(scene),
      (scene) => void (this.#meaning.textContent = meaning(scene)),
    );
  }

  #showSteps({ run, state }: Scene): void {
    const place = run.steps.indexOf(state.step);
    this.#step.textContent = `Step ${place + 1} of ${run.steps.length}`;
    this.#back.hidden = this.#on.hidden = run.steps.length === 1;
    this.#step.hidden = state.query !== null; // a position that reads belongs to one step
    this.#back.disabled = place === 0;
    this.#on.disabled = place === run.steps.length - 1;
    this.#read.hidden = !run.queries;
    this.#query.value = String(state.query ?? "");
  }

  /** To the position that reads before or after the present one. */
  query(by: number): void {
    const { run, state } = this.#store.scene!,
      { positions = [] } = run.queries ?? {};
    const now = state.query === null ? (by < 0 ? positions.length : -1) : positions.indexOf(state.query);
    if (positions.length) this.#store.set({ query: positions[now + by] ?? null });
  }

  step(by: number): void {
    const { run, state } = this.#store.scene!; // not the one drawn last: keys may come faster than frames
    const step = run.steps[run.steps.indexOf(state.step) + by];
    if (step !== undefined) this.#store.set({ step });
  }

  #showRuns({ runs, state }: Scene): void {
    const difference = isDifference(state, runs);
    const of = (run: Run) => (runs.length > 1 ? `${run.name}: ` : "");
    this.#title.textContent = runs.map(({ name }) => name).join(difference ? " and " : ", ");
    this.#facts.replaceChildren(...runs.map((run) => h("span", {}, of(run) + facts(run))));
    const notes = runs.flatMap((run) => [...run.notes, ...(run.manifest?.notes ?? [])].map((note) => of(run) + note));
    const shown = runs.flatMap((run) => limits(run).map((limit) => of(run) + limit));
    if (notes.length === 1) shown.push(notes[0]);
    this.#limits.replaceChildren(...shown.map((text) => h("li", {}, text)));
    this.#noted.hidden = notes.length < 2;
    this.#noteCount.textContent = `${notes.length} notes about ${runs.length > 1 ? "these runs" : "this run"}`;
    this.#notes.replaceChildren(...notes.map((text) => h("li", {}, text)));
    const names = new Map(promptText(runs[0]).tokens.map(({ info }) => [info.position, label(info, 20)]));
    this.#query.replaceChildren(
      usualQuery(runs[0]) === null ? h("option", { value: "" }, "the predicting position") : "",
      ...(runs[0].queries?.positions ?? []).map((position) =>
        h("option", { value: position }, `${position} ${names.get(position) ?? ""}`),
      ),
    );
  }

  /** "... The capital of France is → Paris, p 98 %". */
  #showContext({ runs: [run, ...others], state: { step, query } }: Scene): void {
    const { tokens = [], prompt_length: length = Infinity } = run.manifest ?? {};
    const answer = query === null || query >= length - 1 ? predicted(run, step) : undefined;
    this.#context.hidden = !answer && query === null;
    if (this.#context.hidden) return;
    const before = tokens.filter(
      ({ position = 0, kind }) => kind !== "special" && (query === null ? position < length + step : position <= query),
    );
    const text = collapse(before.slice(-40).map((token) => (token.kind === "image" ? "▦" : (token.text ?? "")))).slice(
      -CONTEXT,
    );
    const shown = (each: string) => (/^▦/.test(each) ? `${each} ` : label(plainToken(0, each), 60).replace(/^␣/, " "));
    const answers = others.flatMap((other) => [
      h("span.muted", {}, ` · ${other.name} → `),
      label(plainToken(0, predicted(other, step)?.text ?? "?")),
    ]);
    if (!answer)
      return this.#context.replaceChildren(
        h("span.muted", {}, `… ${text.slice(0, -1).map(shown).join("").trimStart()} `),
        h("strong", {}, shown(text.at(-1) ?? "").trimStart()),
      );
    this.#context.replaceChildren(
      h("span.muted", {}, `… ${text.map(shown).join("").trimStart()}`),
      h("span.muted", {}, " → "),
      h("strong", {}, label(plainToken(0, answer.text ?? ""))),
      answer.probability === undefined
        ? ""
        : h("span.header-probability muted", {}, ` p ${percent(answer.probability)}`),
      ...answers,
    );
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

/** Patches in a row as one. */
function collapse(texts: string[]): string[] {
  return texts.filter((text, i) => text !== "▦" || texts[i - 1] !== "▦");
}
