/**
 * The prompt as running text, each token shaded by its importance, and the generated text after it: the title of the page.
 * A long one scrolls, beside a map of all of it; its tokens can be searched, and the strongest visited one after the other.
 *
 * The elements are made once per run; afterwards only what has changed about a token is set. A picture's patches are
 * one small canvas in the run of text.
 */

import { h, onKeys, setText } from "../core/dom.ts";
import type { Line } from "../core/export.ts";
import { ink, LIGHT } from "../core/ink.ts";
import { CanvasPainter, type Drawing, type Painter } from "../core/painter.ts";
import {
  cellOf,
  isBlock,
  over,
  promptText,
  type ImageBlock,
  type PromptText,
  type PromptToken,
  type Scores,
} from "../core/prompt-text.ts";
import { type Scene, type View } from "../core/scene.ts";
import { picked, selectedIn } from "../core/select.ts";
import { templatePositions } from "../core/template.ts";
import type { Scenes } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { label } from "../core/tokens.ts";
import { subject } from "../core/words.ts";
import type { Run } from "../data/types.ts";
import { sentence, shadeOf, UNSHADED } from "./shade.ts";
import { legend } from "./prompt-legend.ts";
import { PromptMap, type Mark } from "./prompt-map.ts";
import { beginsDecoder, drawPrompt, paintBlock, scoresOf } from "./prompt-paint.ts";
import { PromptTools } from "./prompt-tools.ts";
import "./prompt.css";

/** Longer tokens are cut: the readout has no use for ten thousand characters either. */
const LENGTH = 80;
const FEW = 60, // tokens that are set large, and need no search
  SOME = 400;
const LONG = 24; // characters that fit into every line; longer tokens may have to be broken

interface Shown {
  element: HTMLElement;
  always: string;
  /** What was last set, to set only what is new. */
  className: string;
  fill: string;
}

interface ShownBlock {
  block: ImageBlock;
  canvas: HTMLCanvasElement;
  cell: number;
}

export class PromptView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #store: Scenes;
  #text: PromptText = { prompt: [], generated: [], tokens: [] };
  #shown: (Shown | null)[] = []; // in the order of #text.tokens; null: in a block
  #blocks: ShownBlock[] = [];
  #places = new Map<Element, number>(); // of a token's element, or of a block's first patch
  #byPosition = new Map<number, number>();
  #cursor = 0;
  #followed: number | null = null; // the token that was scrolled to
  #marked: { selected: number[]; hovered: number | null } = { selected: [], hovered: null };

  #box = h("div.prompt__text", { role: "group", "aria-label": "Tokens of the prompt and of the output" });
  #readout = h("p.prompt__readout visually-hidden", { "aria-live": "polite", "data-said": "" });
  #legend = h("div.prompt__legend");
  #map = new PromptMap(this.#box);
  #tools: PromptTools;
  readonly #own = this.watched({ width: 0 });

  constructor(store: Scenes) {
    super();
    this.#store = store;
    this.#tools = new PromptTools(store, (place) => this.#goTo(place));
    this.element = h(
      "section.prompt",
      { "aria-label": "Prompt" },
      h("h2.visually-hidden", {}, "Prompt"),
      h("div.prompt__page", {}, this.#box, this.#map.element),
      h("div.prompt__foot", {}, this.#legend, this.#tools.element),
      this.#readout,
    );
    this.#box.onpointermove = (event) => this.#hover(this.#at(event));
    this.#box.onpointerleave = () => this.#hover(-1);
    this.#box.onclick = (event) => this.#choose(this.#at(event), event.shiftKey);
    onKeys(this.#box, (event) => this.#press(event));
    this.#box.addEventListener("focusin", (event) => this.#focused(event.target as Element));
    this.#box.addEventListener("focusout", () => this.#hover(-1));
    this.draws(
      ({ run }) => this.#build(run),
      (scene) => this.#shade(scene, scoresOf(scene)),
      (scene) => this.#legend.replaceChildren(...legend(scene, scoresOf(scene), this.#text)),
      (scene) => this.#mark(scene),
      (scene) => this.#say(scene),
      (scene) => this.#follow(scene),
    );
    this.draws((scene) => this.#shadeMap(scene));
    new ResizeObserver(([{ contentRect }]) => {
      this.#own.width = contentRect.width;
    }).observe(this.#box);
  }

  #shadeMap(scene: Scene): void {
    const found = scoresOf(scene),
      { run, state, dark } = scene;
    if (!this.#own.width) return;
    const marks = () =>
      this.#text.tokens.flatMap(({ place }, i): Mark[] => {
        const { fill } = shadeOf({ run, state }, found, place),
          element = this.#shown[i]?.element;
        const size = Math.abs(found.value[place]) / (found.text || 1);
        return fill && element && size > 0.05 ? [{ top: element.offsetTop, size, fill }] : [];
      });
    this.#map.update(marks, dark);
  }

  #goTo(place: number): void {
    this.#moveTo(place, false);
    this.#reveal(this.#elementOf(place));
    this.#store.set({ token: this.#text.tokens[place].info.position });
  }

  #say(scene: Scene): void {
    const shown = this.#byPosition.get(scene.hover.token ?? scene.state.token ?? -1);
    setText(this.#readout, shown === undefined ? "" : sentence(scene, scoresOf(scene), this.#text.tokens[shown]));
  }

  #build(run: Run): void {
    this.#text = promptText(run);
    const { tokens, prompt, generated } = this.#text;
    this.#shown = tokens.map(() => null);
    this.#blocks = [];
    this.#places.clear();
    this.#byPosition = new Map(tokens.map(({ info }, place) => [info.position, place]));
    this.#cursor = 0;
    this.#marked = { selected: [], hovered: null };
    this.#followed = null;
    const content = new DocumentFragment();
    let place = 0;
    const template = templatePositions(run);
    const put = (token: PromptToken) =>
      content.append(...this.#token(token, place++, !template.has(token.info.position)));
    for (const piece of prompt) {
      if (!isBlock(piece)) {
        if (beginsDecoder(run, piece)) content.append(h("div.prompt__divider", {}, "decoder begins"));
        put(piece);
      } else {
        content.append(this.#block(piece, place));
        place += piece.patches.length;
      }
    }
    generated.forEach(put); // each is there once it can be read, at the steps after its own
    if (this.#box.firstChild) this.#box.scrollTop = 0; // before the new content, which would have to be laid out for it
    this.#box.replaceChildren(content);
    this.#elementOf(0)?.setAttribute("tabindex", "0");
    this.#box.dataset.size = tokens.length <= FEW ? "few" : tokens.length <= SOME ? "some" : "many";
    this.#tools.of(this.#text, tokens.length > FEW);
  }

  /** The token's element; a place to break the line before a word, line breaks after those of a text, but not of a template. */
  #token(token: PromptToken, place: number, ofText: boolean): Node[] {
    const text = label(token.info, LENGTH);
    const spaces = /^␣+(?=.)/.exec(text)?.[0] ?? "",
      breaks = /⏎*$/.exec(text)![0].length;
    const always = [...text].length > LONG ? "prompt__token prompt__token--long" : "prompt__token";
    const element = h(
      "span",
      { class: always, role: "button", tabindex: -1, "aria-label": spaces || breaks ? text : null },
      " ".repeat(spaces.length),
      text.slice(spaces.length, text.length - breaks),
      breaks > 0 && h("span.prompt__break", {}, "⏎".repeat(breaks)),
    );
    this.#shown[place] = { element, always, className: always, fill: "" };
    this.#places.set(element, place);
    return [
      ...(spaces || token.info.kind === "special" ? [h("wbr")] : []),
      element,
      ...Array.from({ length: ofText ? breaks : 0 }, () => h("br")),
    ];
  }

  #block(block: ImageBlock, place: number): HTMLElement {
    const cell = Math.max(2, Math.min(10, Math.floor(96 / Math.max(block.rows, block.cols))));
    const name = `image ${block.image}, ${block.patches.length} ${block.patches.length === 1 ? "patch" : "patches"}`;
    const canvas = h("canvas", {
      role: "img",
      tabindex: -1,
      title: name,
      "aria-label": `${name}; arrow keys move among the patches, Enter selects one`,
    });
    canvas.style.width = `${block.cols * cell}px`;
    canvas.style.height = `${block.rows * cell}px`;
    this.#blocks.push({ block, canvas, cell });
    this.#places.set(canvas, place);
    return h("span.prompt__image", {}, canvas);
  }

  #shade(scene: Scene, found: Scores): void {
    const { run, state } = scene;
    // Read once, not for each token.
    const template = templatePositions(run);
    const { step, palette, curve, least, first } = state,
      plain = { run, state: { palette, curve, least, first } };
    this.#box.classList.toggle("prompt__text--signed", found.signed);
    this.#text.tokens.forEach((token, place) => {
      const shown = this.#shown[place];
      if (!shown) return;
      const when = token.step === null || token.step < step ? "" : "later";
      const shade = when ? UNSHADED : shadeOf(plain, found, token.place);
      const { fill, text } = shade.hatch ? UNSHADED : shade; // it would make the text hard to read
      const className = [
        shown.always,
        token.step !== null && "prompt__token--said",
        template.has(token.info.position) && "prompt__token--special",
        !when && shade.fill === null && "prompt__token--none",
      ]
        .filter(Boolean)
        .join(" ");
      if (shown.className !== className) shown.element.className = shown.className = className;
      if (shown.fill !== (fill ?? "")) {
        shown.fill = fill ?? "";
        shown.element.style.backgroundColor = shown.fill;
        shown.element.style.color = fill === null ? "" : text;
      }
      if (token.step !== null) shown.element.hidden = when !== "";
    });
  }

  /** Selection and hover, as attributes; and the pictures, which have both in them. */
  #mark(scene: Scene): void {
    const { state, hover, dark } = scene;
    const place = (position: number | null) => (position === null ? -1 : (this.#byPosition.get(position) ?? -1));
    // Of a unit, all of its tokens.
    const elements = (position: number | null) => {
      const at = place(position),
        unit = this.#text.tokens[at]?.place ?? -1;
      return unit < 0
        ? [this.#shown[at]?.element]
        : this.#text.tokens.flatMap((token, i) => (token.place === unit ? [this.#shown[i]?.element] : []));
    };
    const before = this.#marked,
      selected = selectedIn(state),
      hovered = hover.token;
    this.#marked = { selected, hovered };
    for (const each of before.selected) for (const element of elements(each)) element?.removeAttribute("aria-pressed");
    for (const each of selected) for (const element of elements(each)) element?.setAttribute("aria-pressed", "true");
    for (const element of elements(before.hovered)) element?.removeAttribute("data-hovered");
    for (const element of elements(hovered)) element?.setAttribute("data-hovered", "");
    if (!this.#blocks.length) return;
    const colours = ink(dark);
    const found = scoresOf(scene);
    for (const { block, canvas, cell } of this.#blocks) {
      const painter = new CanvasPainter(canvas, block.cols * cell, block.rows * cell, devicePixelRatio);
      paintBlock(painter, colours, scene, found, block, 0, 0, cell, selected, hovered);
    }
  }

  /** To the token that was selected last; not before the page was laid out for the first time, which would do it twice. */
  #follow({ state }: Scene): void {
    const last = selectedIn(state).at(-1) ?? null;
    if (!this.#own.width || last === this.#followed) return;
    this.#followed = last;
    if (last !== null && !this.#box.matches(":hover")) this.#reveal(this.#elementOf(this.#byPosition.get(last) ?? -1));
  }

  /** Scrolls the box, not the page. */
  #reveal(element: HTMLElement | undefined): void {
    if (!element) return;
    const [inner, outer] = [element.getBoundingClientRect(), this.#box.getBoundingClientRect()];
    if (inner.top < outer.top) this.#box.scrollTop -= outer.top - inner.top + 8;
    else if (inner.bottom > outer.bottom) this.#box.scrollTop += inner.bottom - outer.bottom + 8;
  }

  #elementOf(place: number): HTMLElement | undefined {
    return (
      this.#shown[place]?.element ??
      this.#blocks.find(({ block, canvas }) => {
        const start = this.#places.get(canvas)!;
        return place >= start && place < start + block.patches.length;
      })?.canvas
    );
  }

  /** Place of the token under the pointer; -1: none. */
  #at(event: MouseEvent): number {
    const target = (event.target as Element).closest(".prompt__token, canvas");
    const place = target ? this.#places.get(target) : undefined;
    if (place === undefined || !(target instanceof HTMLCanvasElement)) return place ?? -1;
    const { block, cell } = this.#blocks.find(({ canvas }) => canvas === target)!;
    const [row, col] = [Math.floor(event.offsetY / cell), Math.floor(event.offsetX / cell)];
    const patch = block.patches.findIndex((_, each) => cellOf(block, each).join() === `${row},${col}`);
    return patch < 0 ? -1 : place + patch;
  }

  #hover(place: number): void {
    this.#store.hover({ token: this.#text.tokens[place]?.info.position ?? null });
  }

  /** A token with values is selected; one that is predicted at a later step leads to that step. */
  #choose(place: number, more: boolean): void {
    const token = this.#text.tokens[place];
    const { scene } = this.#store;
    if (!token || !scene) return;
    this.#moveTo(place, false);
    const { run, state } = scene;
    if (token.step !== null && token.step >= state.step) {
      if (run.steps.includes(token.step)) this.#store.set({ step: token.step });
    } else if (token.place >= 0) this.#store.set(picked(state, token.info.position, more));
  }

  #focused(target: Element): void {
    const place = this.#places.get(target);
    if (place === undefined || !target.matches(":focus-visible")) return;
    if (target.tagName !== "CANVAS" || this.#elementOf(this.#cursor) !== target) this.#cursor = place;
    this.#hover(this.#cursor);
  }

  #moveTo(place: number, focus: boolean): void {
    const element = this.#elementOf(place);
    if (!element) return;
    this.#elementOf(this.#cursor)?.setAttribute("tabindex", "-1");
    this.#cursor = place;
    element.setAttribute("tabindex", "0");
    if (!focus) return;
    element.focus();
    this.#hover(place);
  }

  #press({ key, shiftKey }: KeyboardEvent): boolean {
    const last = this.#text.tokens.length - 1;
    const moves: Record<string, () => number> = {
      ArrowLeft: () => this.#cursor - 1,
      ArrowRight: () => this.#cursor + 1,
      ArrowUp: () => this.#vertical(-1),
      ArrowDown: () => this.#vertical(1),
      Home: () => 0,
      End: () => last,
    };
    if (/^(Enter| )$/.test(key)) this.#choose(this.#cursor, shiftKey);
    else if (key in moves) this.#moveTo(Math.max(0, Math.min(last, moves[key]())), true);
    else return false;
    return true;
  }

  /** One row up or down in a picture, else the nearest token of the line above or below. */
  #vertical(direction: 1 | -1): number {
    const here = this.#elementOf(this.#cursor)!;
    const found = this.#blocks.find(({ canvas }) => canvas === here);
    if (found) {
      const start = this.#places.get(here)!;
      const [row, col] = cellOf(found.block, this.#cursor - start);
      const patch = found.block.patches.findIndex(
        (_, each) => cellOf(found.block, each).join() === `${row + direction},${col}`,
      );
      if (patch >= 0) return start + patch;
    }
    const from = here.getBoundingClientRect();
    let [best, distance] = [this.#cursor, Infinity];
    for (const [element, place] of this.#places) {
      const box = element.getBoundingClientRect();
      const down = direction * (direction > 0 ? box.top - from.bottom : box.bottom - from.top);
      if (down < -6 || element === here) continue;
      const away = 8 * Math.max(0, down) + Math.abs(box.left + box.width / 2 - from.left - from.width / 2);
      if (away < distance) [best, distance] = [place, away];
    }
    return best;
  }

  drawing(scene: Scene): Drawing {
    const title = "Prompt, shaded by importance",
      width = 820;
    const draw = (painter: Painter) => drawPrompt(painter, LIGHT, title, scene, scoresOf(scene));
    // The height is known after laying the text out; a canvas of one pixel measures as well as any.
    const height = draw(new CanvasPainter(document.createElement("canvas"), width, 1, 1));
    return { title, width, height, draw };
  }

  lines(scene: Scene): Line[] {
    const { value, peak, of } = scoresOf(scene);
    return promptText(scene.run).tokens.map(({ info, place, step, probability }) => ({
      run: subject(scene),
      ...(of && { metric: of.measure, variant: "" }),
      more: {
        ...(of
          ? { block: of.block, layers: of.effects.windows[of.window] ?? "strongest" }
          : { ...over(scene), peak_layer: peak[place] ?? null }),
        kind: step === null ? info.kind : "generated",
        probability,
      },
      token: info,
      value: value[place] ?? NaN,
    }));
  }
}
