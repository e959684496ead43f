/** The export menu: every view as PNG and SVG, its numbers as CSV. */

import "./exports.css";

import { h } from "../core/dom.ts";
import { copyCsv, exportCsv, exportPdf, exportPng, exportSvg, fileName, tidy, type Line } from "../core/export.ts";
import type { Drawing } from "../core/painter.ts";
import { onPaper, type Scene, type View } from "../core/scene.ts";
import type { Store } from "../core/store.ts";

export interface Exportable extends View {
  drawing?(scene: Scene): Drawing | null;
  lines?(scene: Scene): Line[] | null;
}

export type NamedView = [name: string, view: Exportable];

/** What can be taken away: a drawing, a table, both as they are at the moment; null for what there is not. */
export interface Export {
  name: string;
  /** Whose it is, for the file's name. */
  of: () => string;
  drawing: () => Drawing | null | undefined;
  table: () => string[][] | null | undefined;
}

/** A view of runs as something to export. */
export function ofRuns(store: Store, [name, view]: NamedView): Export {
  return {
    name,
    of: () => store.scene!.runs.map((run) => run.name).join(" "),
    drawing: () => store.scene && view.drawing?.(onPaper(store.scene)),
    table: () => {
      const lines = store.scene && view.lines?.(store.scene);
      return lines && tidy(store.scene!.state, lines);
    },
  };
}

export class ExportMenu {
  readonly button: HTMLButtonElement;
  readonly menu: HTMLElement;
  #body = h("tbody");
  #said = h("p.muted", { role: "status" });

  /** `commands`: by run, what would measure what is shown. */
  constructor(exports: Export[], commands: () => [run: string, command: string][]) {
    this.button = h("button.quiet", { popovertarget: "exports" }, "Export");
    this.menu = h(
      "div.exports",
      { id: "exports", popover: "", role: "dialog", "aria-label": "Export" },
      h("table", {}, this.#body),
      this.#said,
    );
    this.menu.addEventListener("beforetoggle", (event) => {
      if ((event as ToggleEvent).newState !== "open") return;
      this.#said.textContent = "";
      this.#body.replaceChildren(
        ...exports.map((each) => this.#row(each)).filter((row) => row !== null),
        ...commands().map((each) => this.#command(...each)),
      );
    });
  }

  toggle(): void {
    this.menu.togglePopover();
  }

  #row({ name, of, drawing, table }: Export): HTMLElement | null {
    const drawn = drawing(),
      listed = table();
    if (!drawn && !listed) return null;
    // What is shown when the button is pressed: layers may play, or a file may arrive, while the menu is open.
    const action = (text: string, act: (file: string) => unknown) => {
      const now = () => act(fileName(of(), name));
      return h("button", { "aria-label": `${name}: ${text}`, onclick: () => this.#try(now) }, text);
    };
    const copied = async (file: string) =>
      (await copyCsv(there(table()), file)) === "copied"
        ? `${name}: copied.`
        : "The browser does not let this page copy; saved as a file.";
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      h("td", {}, drawn && action("PNG", (file) => exportPng(there(drawing()), file))),
      h("td", {}, drawn && action("SVG", (file) => exportSvg(there(drawing()), file))),
      h("td", {}, drawn && action("PDF", (file) => exportPdf(there(drawing()), file))),
      h("td", {}, listed && action("Copy CSV", copied)),
      h("td", {}, listed && action("Save CSV", (file) => exportCsv(there(table()), file))),
    );
  }

  #command(run: string, command: string): HTMLElement {
    const copy = async () => {
      await navigator.clipboard.writeText(command);
      return "Command: copied.";
    };
    const name = `Copy command${run && ` of ${run}`}`;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, `Command${run && `, ${run}`}`),
      h("td", { colspan: 4 }, h("code.exports-command", { title: command }, command)),
      h("td", {}, h("button", { "aria-label": name, onclick: () => this.#try(copy) }, "Copy")),
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

function there<What>(what: What | null | undefined): What {
  if (!what) throw new Error("it is not shown any more");
  return what;
}
