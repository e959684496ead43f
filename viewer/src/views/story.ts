/** The first sentence of the page: what the model read to say the token of this step, and what it cannot do without. */

import "./story.css";

import { h } from "../core/dom.ts";
import type { Scene, View } from "../core/scene.ts";
import type { Scenes } from "../core/store.ts";
import { CHANGES } from "../core/effects.ts";
import { story, wordAround, type Read, type Story } from "../core/story.ts";
import { label, unspaced, visible } from "../core/tokens.ts";
import { Drawn } from "../core/track.ts";
import { isDifference, meaning, percent, predicted } from "../core/words.ts";
import type { Run, TokenInfo } from "../data/types.ts";

type Part = Node | string;
const MOST = 30; // characters of a piece

export class StoryView extends Drawn<Scene> implements View {
  #said = h("p.story", { "aria-live": "polite" });
  readonly element = h("div", {}, this.#said);
  #store: Scenes;

  constructor(store: Scenes) {
    super();
    this.#store = store;
    this.draws((scene) => this.#tell(scene));
  }

  #tell(scene: Scene): void {
    const { run, runs, state } = scene;
    const answer = predicted(run, state.step)?.text;
    const said = isDifference(state, runs) ? [] : this.#sentences(scene, story(scene));
    this.element.hidden = !said.length;
    const tower = run.manifest?.tower === "vision";
    const beginning: Part[] = tower
      ? ["In the vision tower, the other patches read most "]
      : state.query !== null
        ? [`Position ${state.query}: `]
        : answer === undefined
          ? ["To say the next token: "]
          : ["To say ", h("strong.mono", {}, word(answer)), ": "];
    this.#said.replaceChildren(...beginning, ...said, ".");
  }

  #sentences({ run, state }: Scene, { words, patch, tower, template, lost, robust }: Story): Part[] {
    const select = (each: Read) => this.#token(each, name(run, each.token));
    const read = (each: Read): Part[] => [`layer ${each.layer} reads `, select(each)];
    const parts: Part[][] = words.map(read);
    if (template)
      parts.push(["the template’s ", select(template), ` is read more than any word (layer ${template.layer})`]);
    if (patch) parts.push([`in the picture, layer ${patch.layer} reads most at `, select(patch)]);
    for (const each of tower ?? []) parts.push([select(each), ` (layer ${each.layer})`]);
    const said = parts.flatMap((part, i) => (i < parts.length - 1 ? [...kept(part, ","), " "] : part));
    const before = said.length ? [...kept(said, ";"), " "] : [];
    if (lost) {
      const result =
        lost.then !== null
          ? [
              tower ? ` the answer ${word(predicted(run, state.step)?.text ?? "")} becomes ` : " the answer is ",
              h("strong.mono", {}, word(lost.then)),
            ]
          : [` the answer's probability falls from ${percent(lost.before)} to ${percent(lost.after)}`];
      const where = lost.where === null ? "" : ` in ${lost.where}`;
      const named = lost.isRoute ? [h("strong.mono", {}, lost.token.text)] : name(run, lost.token);
      const token = this.#token({ token: lost.token, layer: null }, named);
      return [...before, "without ", token, where, ...result];
    }
    return robust ? [...before, `no single mask changes the answer's probability by ${CHANGES} or more`] : said;
  }

  /** A token, which a click selects where it is read. */
  #token({ token, layer }: { token: TokenInfo; layer: number | null }, named: Part[]): HTMLElement {
    const select = () =>
      this.#store.set({ token: token.position, ...(layer !== null && token.kind !== "image" && { layer }) });
    return h(
      "button.story-token",
      { onclick: select, title: `Select it${layer === null ? "" : ` in layer ${layer}`}` },
      ...named,
    );
  }
}

/** A sign stays on the line of the token before it. */
function kept(parts: Part[], sign: string): Part[] {
  const last = parts.at(-1)!;
  return [...parts.slice(0, -1), typeof last === "string" ? last + sign : h("span.story-kept", {}, last, sign)];
}

/** What colour means, in all views. */
export class MeaningView extends Drawn<Scene> implements View {
  readonly element = h("p.header-meaning muted");

  constructor() {
    super();
    this.draws((scene) => void (this.element.textContent = meaning(scene)));
  }
}

/** "image 1", or "frame 2" of a video, which has a number of its own. */
function pictureName({ manifest }: Run, image: number): string {
  const images = manifest?.images ?? [],
    video = images[image]?.video;
  if (video === undefined) return `image ${image}`;
  return `frame ${images.slice(0, image).filter((other) => other.video === video).length}`;
}

function name(run: Run, token: TokenInfo): Part[] {
  if (token.kind === "image" && !token.members) {
    const of = (run.manifest?.images?.length ?? 1) > 1 ? ` of ${pictureName(run, token.image ?? 0)}` : "";
    return [
      h("strong", {}, token.row === null ? `position ${token.position}` : `row ${token.row}, column ${token.col}${of}`),
    ];
  }
  const around = token.members ? null : wordAround(run, token.position);
  const text = around
    ? [
        around[0] && h("span.muted", {}, around[0].slice(-MOST)),
        h("strong", {}, around[1].slice(0, MOST)),
        around[2] && h("span.muted", {}, around[2].slice(0, MOST)),
      ]
    : [h("strong", {}, unspaced(label(token, 30)))];
  return [h("span.mono", {}, ...text), ` (${token.position})`];
}

const word = (text: string) => unspaced(visible(text.slice(0, 60)));
