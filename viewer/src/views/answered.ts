/** What is read first about a run: its prompt, the tokens of its answer, and the sentence about them. */

import { h } from "../core/dom.ts";
import type { Scene } from "../core/scene.ts";
import type { Scenes } from "../core/store.ts";
import type { Exportable } from "./exports.ts";
import { AnswerView } from "./header.ts";
import { PromptView } from "./prompt.ts";
import { StoryView } from "./story.ts";

export class AnsweredView implements Exportable {
  readonly element: HTMLElement;
  readonly #prompt: PromptView;
  readonly #others: [AnswerView, StoryView];

  constructor(scenes: Scenes) {
    this.#prompt = new PromptView(scenes);
    this.#others = [new AnswerView(scenes), new StoryView(scenes)];
    const parts = [this.#prompt, ...this.#others].map(({ element }) => element);
    this.element = h("div.answered", {}, ...parts);
  }

  update(scene: Scene): void {
    for (const view of [this.#prompt, ...this.#others]) view.update(scene);
  }

  drawing = (scene: Scene) => this.#prompt.drawing(scene);
  lines = (scene: Scene) => this.#prompt.lines(scene);
}
