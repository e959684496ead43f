/** In a long prompt: a search for tokens, and visits to the strong ones, one after the other. */

import { h } from "../core/dom.ts";
import type { PromptText } from "../core/prompt-text.ts";
import type { Scenes } from "../core/store.ts";
import { scoresOf } from "./prompt-paint.ts";

const STRONG = 0.3; // of the largest value: worth a visit

export class PromptTools {
  readonly element: HTMLElement;
  readonly #scenes: Scenes;
  readonly #goTo: (place: number) => void;
  #text: PromptText = { prompt: [], generated: [], tokens: [] };
  #byPosition = new Map<number, number>();
  #find = h("input", {
    type: "search",
    placeholder: "Find a token",
    "aria-label": "Find a token",
    onkeydown: (event: KeyboardEvent) => event.key === "Enter" && this.#search(event.shiftKey ? -1 : 1),
    oninput: () => this.#search(0),
  });
  #found = h("output.muted");

  /** `goTo`: to a place among the tokens. */
  constructor(scenes: Scenes, goTo: (place: number) => void) {
    this.#scenes = scenes;
    this.#goTo = goTo;
    this.element = h(
      "div.prompt__tools",
      {},
      this.#find,
      this.#found,
      h("button.quiet", { onclick: () => this.#visit(-1), "aria-label": "Previous strong token" }, "‹"),
      h("span.muted", {}, "strong"),
      h("button.quiet", { onclick: () => this.#visit(1), "aria-label": "Next strong token" }, "›"),
    );
  }

  /** Of another text. */
  of(text: PromptText, needed: boolean): void {
    this.#text = text;
    this.#byPosition = new Map(text.tokens.map(({ info }, place) => [info.position, place]));
    this.element.hidden = !needed;
    [this.#find.value, this.#found.textContent] = ["", ""];
  }

  #selected(): number {
    return this.#byPosition.get(this.#scenes.scene?.state.token ?? -1) ?? -1;
  }

  /** To the next token whose text, with that of its neighbours, contains what is looked for. */
  #search(by: -1 | 0 | 1): void {
    const wanted = this.#find.value.toLowerCase(),
      { tokens } = this.#text;
    const starts: number[] = [];
    let whole = "";
    for (const { info } of tokens) {
      starts.push(whole.length);
      whole += info.kind === "image" ? " " : info.text.toLowerCase();
    }
    const hits: number[] = [];
    for (let at = wanted ? whole.indexOf(wanted) : -1; at >= 0; at = whole.indexOf(wanted, at + 1))
      hits.push(starts.findLastIndex((start) => start <= at + (wanted.length - wanted.trimStart().length)));
    const now = hits.indexOf(this.#selected());
    const next = hits.length ? (now + (by || Number(now < 0)) + hits.length) % hits.length : -1;
    this.#found.textContent = wanted ? (hits.length ? `${next + 1} of ${hits.length}` : "none") : "";
    if (next >= 0) this.#goTo(hits[next]);
  }

  /** To the next token, in reading order, that is worth a look. */
  #visit(by: -1 | 1): void {
    const { scene } = this.#scenes;
    if (!scene) return;
    const { value, text } = scoresOf(scene),
      { tokens } = this.#text;
    const strong = [...tokens.keys()].filter(
      (i) => Math.abs(value[tokens[i].place]) >= STRONG * text && tokens[i].info.kind !== "image",
    );
    if (!strong.length) return;
    const now = this.#selected();
    const next = by > 0 ? strong.find((i) => i > now) : strong.findLast((i) => i < now);
    this.#goTo(next ?? strong.at(by > 0 ? 0 : -1)!);
  }
}
