/** A view of one run, once for each run where several are shown side by side: every run in its own words and units. */

import "./each.css";

import { besideScene, BesideStore } from "../core/beside.ts";
import { h } from "../core/dom.ts";
import type { Line } from "../core/export.ts";
import { LIGHT } from "../core/ink.ts";
import { part, type Drawing } from "../core/painter.ts";
import type { Scene } from "../core/scene.ts";
import type { Scenes, Store } from "../core/store.ts";
import type { Exportable } from "./exports.ts";

export class EachView implements Exportable {
  readonly element = h("div.each");
  readonly #make: (scenes: Scenes) => Exportable;
  readonly #store: Store;
  #views: { view: Exportable; frame: HTMLElement; name: HTMLElement }[] = [];

  constructor(store: Store, make: (scenes: Scenes) => Exportable) {
    this.#store = store;
    this.#make = make;
  }

  update(scene: Scene): void {
    const { beside } = scene;
    while (this.#views.length < beside.length) this.#add();
    this.#views.forEach(({ view, frame, name }, i) => {
      if (i >= beside.length) return void (frame.hidden = true); // kept: what is open in it, and how it is sorted
      view.update(besideScene(scene, i));
      const alone = beside.length < 2;
      name.hidden = alone;
      name.textContent = alone ? "" : `${i + 1}. ${beside[i].name}`;
      if (alone) frame.removeAttribute("role");
      else frame.setAttribute("role", "group");
      frame.setAttribute("aria-label", name.textContent);
      frame.hidden = view.element.hidden;
    });
    this.element.classList.toggle("each--several", beside.length > 1);
    this.element.hidden = this.#views.every(({ frame }) => frame.hidden);
  }

  #shown({ beside }: Scene) {
    return this.#views.slice(0, beside.length);
  }

  #add(): void {
    const view = this.#make(new BesideStore(this.#store, this.#views.length));
    const name = h("p.each__name", { "aria-hidden": "true" });
    const frame = h("div", {}, name, view.element);
    this.#views.push({ view, frame, name });
    this.element.append(frame);
  }

  /** One below the other. */
  drawing(scene: Scene): Drawing | null {
    const drawings = this.#shown(scene).flatMap(({ view }, i) => view.drawing?.(besideScene(scene, i)) ?? []);
    if (drawings.length < 2) return drawings[0] ?? null;
    const width = Math.max(...drawings.map((each) => each.width));
    return {
      title: drawings[0].title,
      width,
      height: drawings.reduce((sum, { height }) => sum + height, 0),
      draw: (painter) => {
        painter.rect(0, 0, painter.width, painter.height, LIGHT.paper);
        let y = 0;
        for (const each of drawings) {
          each.draw(part(painter, 0, y, width, each.height));
          y += each.height;
        }
      },
    };
  }

  lines(scene: Scene): Line[] | null {
    const lists = this.#shown(scene).flatMap(({ view }, i) => view.lines?.(besideScene(scene, i)) ?? []);
    return lists.length ? lists : null;
  }
}
