/** The numbers of the heat map as a table, for reading, copying and screen readers: as many tokens as fit at a time. */

import { h } from "../core/dom.ts";
import type { Scene } from "../core/scene.ts";
import { columnOf, sheets, type Sheet } from "../core/sheet.ts";
import { exact, label } from "../core/tokens.ts";
import { Drawn } from "../core/track.ts";
import { columnName } from "./heatmap-paint.ts";
import { scaleText } from "./heatmap-scale.ts";

const MOST_CELLS = 1500;

export class NumbersTable extends Drawn<Scene> {
  readonly element: HTMLDetailsElement;
  #caption = h("caption");
  #head = h("thead");
  #body = h("tbody");
  #back = h("button", { onclick: () => this.#own.page-- }, "Previous tokens");
  #on = h("button", { onclick: () => this.#own.page++ }, "Next tokens");
  #where = h("span.muted");
  readonly #own = this.watched({ page: 0, open: false });

  constructor() {
    super();
    this.element = h(
      "details.heatmap-numbers",
      { ontoggle: () => (this.#own.open = this.element.open) },
      h("summary", {}, "Numbers as a table"),
      h("p.heatmap-pages", {}, this.#back, this.#on, this.#where),
      h(
        "div.heatmap-table",
        { tabindex: 0, role: "region", "aria-label": "Numbers of the heat map" },
        h("table", {}, this.#caption, this.#head, this.#body),
      ),
    );
    this.draws((scene) => this.#follow(scene));
    this.draws((scene) => this.#show(scene));
  }

  #followed: number | null = null;
  /** To the page that has the selected token. */
  #follow(scene: Scene): void {
    const { token } = scene.state,
      [sheet] = sheets(scene);
    if (token !== null && token !== this.#followed)
      this.#own.page = Math.floor(columnOf(sheet.columns, token) / this.#perPage(sheet));
    this.#followed = token;
  }

  #perPage = (sheet: Sheet) => Math.max(5, Math.floor(MOST_CELLS / sheet.layers.length));

  #show(scene: Scene): void {
    if (!this.#own.open) return;
    const [sheet] = sheets(scene),
      perPage = this.#perPage(sheet);
    const pages = Math.ceil(sheet.columns.length / perPage);
    const page = (this.#own.page = Math.max(0, Math.min(pages - 1, this.#own.page)));
    const first = page * perPage,
      last = Math.min(sheet.columns.length, first + perPage);
    this.#back.disabled = page === 0;
    this.#on.disabled = page === pages - 1;
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
