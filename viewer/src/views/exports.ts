/** The export menu: every view as PNG and SVG, its numbers as CSV. */

import "./exports.css";

import { h } from "../core/dom.ts";
import { copyCsv, exportPng, exportSvg, fileName } from "../core/export.ts";
import type { Drawing } from "../core/painter.ts";
import type { Scene, View } from "../core/scene.ts";
import type { Store } from "../core/store.ts";

export interface Exportable extends View {
  drawing?(scene: Scene): Drawing | null;
  table?(scene: Scene): string[][] | null;
}

export type NamedView = [name: string, view: Exportable];

export class ExportMenu {
  readonly button: HTMLButtonElement;
  readonly menu: HTMLElement;
  #body = h("tbody");
  #said = h("p", { class: "muted", role: "status" });

  constructor(store: Store, views: NamedView[]) {
    this.button = h("button", { type: "button", class: "quiet", popovertarget: "exports" }, "Export");
    this.menu = h(
      "div", { id: "exports", class: "exports", popover: "", role: "dialog", "aria-label": "Export" },
      h("table", {}, this.#body), this.#said,
    );
    this.menu.addEventListener("beforetoggle", (event) => {
      if ((event as ToggleEvent).newState === "open" && store.scene) this.#fill(store.scene, views);
    });
  }

  toggle(): void {
    this.menu.togglePopover();
  }

  #fill(scene: Scene, views: NamedView[]): void {
    this.#said.textContent = "";
    this.#body.replaceChildren(...views.flatMap(([name, view]) => {
      const drawing = view.drawing?.(scene), table = view.table?.(scene);
      if (!drawing && !table) return [];
      const file = fileName(scene.runs.map((run) => run.name).join(" "), name);
      const action = (text: string, act: () => unknown) =>
        h("button", { type: "button", "aria-label": `${name}: ${text}`, onclick: () => this.#try(act) }, text);
      return h(
        "tr", {}, h("th", { scope: "row" }, name),
        h("td", {}, drawing && action("PNG", () => exportPng(drawing, file))),
        h("td", {}, drawing && action("SVG", () => exportSvg(drawing, file))),
        h("td", {}, table && action("Copy CSV", async () =>
          (await copyCsv(table, file)) === "copied" ? `${name}: ${table.length - 1} lines copied.` : "The browser does not let this page copy; saved as a file.")),
      );
    }));
  }

  async #try(act: () => unknown): Promise<void> {
    try {
      this.#said.textContent = String((await act()) ?? "Saved.");
    } catch (error) {
      this.#said.textContent = `Not exported: ${(error as Error).message}`;
    }
  }
}
