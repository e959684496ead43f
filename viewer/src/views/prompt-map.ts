/** All of a long prompt at a glance: a strip beside its text, with the strongest shade of each line, and a frame around what is in view. */

import { h } from "../core/dom.ts";
import { ink } from "../core/ink.ts";
import { CanvasPainter } from "../core/painter.ts";

const WIDE = 18;

export interface Mark {
  /** Upper edge in the text that scrolls, in pixels. */
  top: number;
  /** 0 to 1, by which the stronger one wins. */
  size: number;
  fill: string;
}

export class PromptMap {
  readonly element: HTMLElement;
  #canvas = h("canvas", { "aria-hidden": "true" });
  #box: HTMLElement;
  #marks: Mark[] = [];
  #dark = false;

  constructor(box: HTMLElement) {
    this.#box = box;
    this.element = h(
      "div.prompt__map",
      { title: "The whole prompt; click or drag to go there", hidden: true },
      this.#canvas,
    );
    const follow = (event: PointerEvent) => {
      const { top, height } = this.#canvas.getBoundingClientRect();
      box.scrollTop = ((event.clientY - top) / height) * box.scrollHeight - box.clientHeight / 2;
    };
    this.#canvas.onpointerdown = (event) => {
      this.#canvas.setPointerCapture(event.pointerId);
      follow(event);
    };
    this.#canvas.onpointermove = (event) => event.buttons & 1 && follow(event);
    box.addEventListener("scroll", () => this.#paint(box));
  }

  update(marks: () => Mark[], dark: boolean): void {
    const { scrollHeight, clientHeight, scrollTop } = this.#box,
      scrolls = scrollHeight > clientHeight + 4;
    // Asked before the map is shown: afterwards the page would be laid out anew for it.
    this.#marks = scrolls ? marks().sort((a, b) => a.size - b.size) : [];
    this.element.hidden = !scrolls;
    if (!scrolls) return;
    this.#dark = dark;
    this.#paint({ scrollHeight, clientHeight, scrollTop });
  }

  #paint({
    scrollHeight,
    clientHeight,
    scrollTop,
  }: Pick<Element, "scrollHeight" | "clientHeight" | "scrollTop">): void {
    if (this.element.hidden || !clientHeight) return;
    const scale = clientHeight / scrollHeight,
      colours = ink(this.#dark);
    Object.assign(this.#canvas.style, { width: `${WIDE}px`, height: `${clientHeight}px` });
    const painter = new CanvasPainter(this.#canvas, WIDE, clientHeight, devicePixelRatio);
    painter.rect(0, 0, WIDE, clientHeight, colours.paper);
    for (const { top, fill } of this.#marks) painter.rect(2, top * scale, WIDE - 4, Math.max(2, 20 * scale), fill);
    painter.rect(0.5, scrollTop * scale + 0.5, WIDE - 1, Math.max(8, clientHeight * scale) - 1, null, colours.muted, 1);
  }
}
