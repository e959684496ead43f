/** The numbers of the heat map as a table, for reading, copying and screen readers: as many tokens as fit at a time. */

import { h, same } from "../core/dom.ts";
import type { Scene } from "../core/scene.ts";
import { columnOf, type Sheet } from "../core/sheet.ts";
import { label } from "../core/tokens.ts";
import { exact } from "../core/words.ts";
import { columnName, scaleText } from "./heatmap-paint.ts";

const MOST_CELLS = 1500;

export class NumbersTable {
  readonly element: HTMLDetailsElement;
  #caption = h("caption");
  #head = h("thead");
  #body = h("tbody");
  #back = h("button", { onclick: () => this.#go(-1) }, "Previous tokens");
  #on = h("button", { onclick: () => this.#go(1) }, "Next tokens");
  #where = h("span.muted");
  #page = 0;
  #sheet: Sheet | null = null;
  #shown: unknown[] = [];
  #scene: Scene | null = null;

  constructor() {
    this.element = h(
      "details.heatmap-numbers",
      { ontoggle: () => this.#show() },
      h("summary", {}, "Numbers as a table"),
      h("p.heatmap-pages", {}, this.#back, this.#on, this.#where),
      h(
        "div.heatmap-table",
        { tabindex: 0, role: "region", "aria-label": "Numbers of the heat map" },
        h("table", {}, this.#caption, this.#head, this.#body),
      ),
    );
  }

  update(scene: Scene, sheet: Sheet): void {
    if (scene.state.token !== this.#scene?.state.token && scene.state.token !== null)
      this.#page = Math.floor(columnOf(sheet.columns, scene.state.token) / this.#perPage(sheet));
    this.#scene = scene;
    this.#sheet = sheet;
    this.#show();
  }

  #perPage = (sheet: Sheet) => Math.max(5, Math.floor(MOST_CELLS / sheet.layers.length));

  #go(by: number): void {
    this.#page += by;
    this.#show();
  }

  #show(): void {
    const [sheet, scene] = [this.#sheet, this.#scene];
    if (!sheet || !scene || !this.element.open) return;
    const perPage = this.#perPage(sheet);
    const pages = Math.ceil(sheet.columns.length / perPage);
    this.#page = Math.max(0, Math.min(pages - 1, this.#page));
    const shows = [sheet, this.#page, scene.state.token, scene.state.layer];
    if (same(shows, this.#shown)) return;
    this.#shown = shows;
    const first = this.#page * perPage,
      last = Math.min(sheet.columns.length, first + perPage);
    this.#back.disabled = this.#page === 0;
    this.#on.disabled = this.#page === pages - 1;
    this.#back.parentElement!.hidden = pages === 1;
    this.#where.textContent = `${first + 1} to ${last} of ${sheet.columns.length}`;
    this.#caption.textContent = `${sheet.title}, step ${scene.state.step + 1}: ${scaleText(sheet, scene.state).replace(/[,;] (from|each).*/, "")}; one line per token, one column per layer`;
    const { layer: chosen, token } = scene.state;
    const mark = (on: boolean) => (on ? "heatmap-chosen" : null);
    this.#head.replaceChildren(
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "Position"),
        h("th", { scope: "col" }, "Token"),
        ...sheet.layers.map((layer) => h("th", { scope: "col", class: mark(layer === chosen) }, `Layer ${layer}`)),
      ),
    );
    const rows = document.createDocumentFragment();
    const selected = columnOf(sheet.columns, token);
    for (let column = first; column < last; column++) {
      const { positions, token: own } = sheet.columns[column];
      const name = positions.length > 1 ? columnName(sheet, column) : label(own);
      const row = h(
        "tr",
        { class: mark(column === selected), "data-position": positions[0] },
        h("td", {}, String(positions[0])),
        h("th.mono", { scope: "row" }, name),
      );
      sheet.layers.forEach((layer, place) => {
        const value = exact(sheet.values[place * sheet.columns.length + column]);
        row.append(h("td", { class: mark(layer === chosen), "data-layer": layer }, value || "–"));
      });
      rows.append(row);
    }
    this.#body.replaceChildren(rows);
  }
}
