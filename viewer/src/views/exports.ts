/** The export menu: every view as PNG and SVG, its numbers as CSV. */

import "./exports.css";

import { h } from "../core/dom.ts";
import { copyCsv, exportCsv, exportPng, exportSvg, fileName, tidy, type Line } from "../core/export.ts";
import type { Drawing } from "../core/painter.ts";
import type { Scene, View } from "../core/scene.ts";
import type { Store } from "../core/store.ts";

export interface Exportable extends View {
  drawing?(scene: Scene): Drawing | null;
  lines?(scene: Scene): Line[] | null;
}

export type NamedView = [name: string, view: Exportable];

export class ExportMenu {
  readonly button: HTMLButtonElement;
  readonly menu: HTMLElement;
  #store: Store;
  #body = h("tbody");
  #said = h("p.muted", { role: "status" });

  constructor(store: Store, views: NamedView[]) {
    this.#store = store;
    this.button = h("button.quiet", { popovertarget: "exports" }, "Export");
    this.menu = h(
      "div.exports", { id: "exports", popover: "", role: "dialog", "aria-label": "Export" },
      h("table", {}, this.#body), this.#said,
    );
    this.menu.addEventListener("beforetoggle", (event) => {
      if ((event as ToggleEvent).newState !== "open") return;
      this.#said.textContent = "";
      this.#body.replaceChildren(...views.map((view) => this.#row(...view)).filter((row) => row !== null));
    });
  }

  toggle(): void {
    this.menu.togglePopover();
  }

  #row(name: string, view: Exportable): HTMLElement | null {
    const { scene } = this.#store;
    const drawn = scene && view.drawing?.(scene), listed = scene && view.lines?.(scene);
    if (!drawn && !listed) return null;
    // What is shown when the button is pressed: layers may play, or a file may arrive, while the menu is open.
    const action = (text: string, act: (scene: Scene, file: string) => unknown) => {
      const now = () => act(this.#store.scene!, fileName(this.#store.scene!.runs.map((run) => run.name).join(" "), name));
      return h("button", { "aria-label": `${name}: ${text}`, onclick: () => this.#try(now) }, text);
    };
    const drawing = (now: Scene) => there(view.drawing!(now)), table = (now: Scene) => tidy(now.state, there(view.lines!(now)));
    const copied = async (now: Scene, file: string) =>
      (await copyCsv(table(now), file)) === "copied" ? `${name}: copied.` : "The browser does not let this page copy; saved as a file.";
    return h(
      "tr", {}, h("th", { scope: "row" }, name),
      h("td", {}, drawn && action("PNG", (now, file) => exportPng(drawing(now), file))),
      h("td", {}, drawn && action("SVG", (now, file) => exportSvg(drawing(now), file))),
      h("td", {}, listed && action("Copy CSV", copied)),
      h("td", {}, listed && action("Save CSV", (now, file) => exportCsv(table(now), file))),
    );
  }

  async #try(act: () => unknown): Promise<void> {
    try {
      this.#said.textContent = String((await act()) ?? "Saved.");
    } catch (error) {
      this.#said.textContent = `Not exported: ${(error as Error).message}`;
    }
  }
}

function there<What>(what: What | null): What {
  if (!what) throw new Error("it is not shown any more");
  return what;
}
