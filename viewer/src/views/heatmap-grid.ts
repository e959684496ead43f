/**
 * One sheet as a grid that scrolls both ways: a canvas of the size of the view stays in place while a spacer of the
 * size of the sheet scrolls under it. Assistive technology sees a grid with the one cell that is selected.
 */

import { h } from "../core/dom.ts";
import { ink } from "../core/ink.ts";
import { CanvasPainter } from "../core/painter.ts";
import type { Scene } from "../core/scene.ts";
import { columnOf, strongest, type Sheet } from "../core/sheet.ts";
import { picked } from "../core/select.ts";
import type { Scenes } from "../core/store.ts";
import { named, number } from "../core/tokens.ts";
import { cellOf, columnAt, geometry, layerAt, paintSheet, type Geometry } from "./heatmap-paint.ts";
import { paintScale, scaleHeight, scaleText } from "./heatmap-scale.ts";

/** What part of the sheet is in view, in pixels of its cells. */
export interface Viewport {
  x: number;
  y: number;
  width: number;
  height: number;
  geometry: Geometry;
}

const BAR = 16; // room for a scroll bar
let count = 0;

export class Grid {
  readonly element: HTMLElement;
  #store: Scenes;
  #title = h("h3.heatmap-name");
  #notes = h("p.heatmap-notes muted");
  #bar = h("canvas.heatmap-bar", { role: "img" });
  #canvas = h("canvas", { "aria-hidden": "true" });
  #spacer = h("div.heatmap-spacer", {}, this.#canvas);
  #cell = h("span", { role: "gridcell", id: `heatmap-cell-${++count}` });
  #row = h("div.visually-hidden", { role: "row" }, this.#cell);
  #scroll: HTMLElement;
  #geometry!: Geometry;
  #size = { width: 0, height: 0 };
  #at = { x: 0, y: 0 }; // where it is scrolled to: asking the element would lay out the page in the middle of an update
  #shown = "";

  constructor(store: Scenes, scrolled: (x: number, y: number) => void) {
    this.#store = store;
    this.#scroll = h(
      "div.heatmap-scroll",
      { role: "grid", tabindex: 0, "data-arrows": "selection" },
      this.#spacer,
      this.#row,
    );
    this.element = h("div.heatmap-panel", {}, this.#title, this.#bar, this.#notes, this.#scroll);
    this.#scroll.addEventListener("scroll", () => {
      const { x, y } = this.#at;
      this.#look();
      if (this.#at.x !== x || this.#at.y !== y) scrolled(this.#at.x, this.#at.y);
    });
    this.#scroll.onpointermove = (event) => this.#store.hover(this.#under(event));
    this.#scroll.onpointerleave = () => this.#store.hover();
    this.#scroll.onclick = (event) => this.#click(event);
  }

  /**
   * `legend`: the sheet whose scale and signs are explained above the grid, in `wide` pixels or as wide as the grid;
   * null where another grid does that.
   */
  lay(
    scene: Scene,
    sheet: Sheet,
    among: Sheet[],
    width: number,
    height: number,
    titled: boolean,
    legend: Sheet | null,
    wide: number | null,
  ): void {
    const { state } = scene;
    this.#title.textContent = titled ? sheet.title : "";
    this.#title.hidden = !titled;
    this.#notes.textContent = sheet.notes.join(" ");
    this.#notes.hidden = !sheet.notes.length;
    this.#geometry = geometry(sheet, state.rows, width - BAR, height, undefined, among);
    const shown = [sheet.run.id, state.rows, width, height, this.#geometry.width, this.#geometry.height].join();
    if (shown !== this.#shown) {
      this.#shown = shown;
      this.#resize(width, height);
    }
    this.#describe(scene, sheet);
    this.#bar.hidden = !legend;
    if (legend) this.#explain(legend, scene, wide ?? parseFloat(this.#scroll.style.width));
    this.#reveal(scene);
  }

  #explain(legend: Sheet, { state, dark }: Scene, width: number): void {
    const high = scaleHeight(legend, state, width);
    const bar = new CanvasPainter(this.#bar, width, high, devicePixelRatio);
    Object.assign(this.#bar.style, { width: `${width}px`, height: `${high}px` });
    paintScale(bar, legend, state, ink(dark), 0, 0, width);
    this.#bar.setAttribute("aria-label", `Colour scale: ${scaleText(legend, state)}`);
  }

  #resize(width: number, height: number): void {
    const g = this.#geometry;
    const wide = g.width > width,
      tall = g.height > height;
    this.#scroll.style.width = `${Math.min(width, g.width + (tall ? BAR : 0))}px`;
    this.#scroll.style.height = `${Math.min(height, g.height) + (wide ? BAR : 0)}px`;
    this.element.style.width = g.byLayers ? "" : this.#scroll.style.width; // so that the minimap is next to it
    this.#spacer.style.width = `${g.width}px`;
    this.#spacer.style.height = `${g.height}px`;
    this.#size = {
      width: Math.min(this.#scroll.clientWidth || width, g.width),
      height: Math.min(this.#scroll.clientHeight || height, g.height),
    };
    this.#canvas.style.width = `${this.#size.width}px`;
    this.#canvas.style.height = `${this.#size.height}px`;
    this.#look();
  }

  #look(): void {
    this.#at = { x: this.#scroll.scrollLeft, y: this.#scroll.scrollTop };
  }

  paint({ state, hover, dark }: Scene): void {
    const painter = new CanvasPainter(this.#canvas, this.#size.width, this.#size.height, devicePixelRatio);
    paintSheet(painter, this.#geometry, state, ink(dark), this.#at.x, this.#at.y, {
      token: state.token,
      also: state.also,
      layer: state.layer,
      hover,
    });
  }

  focus(): void {
    this.#scroll.focus();
  }

  scrollTo(x: number, y: number): void {
    this.#move(x, y);
  }

  #move(x: number, y: number): boolean {
    if (Math.abs(this.#at.x - x) < 1 && Math.abs(this.#at.y - y) < 1) return false;
    this.#scroll.scrollTo(x, y);
    this.#look();
    return true;
  }

  viewport(): Viewport {
    const g = this.#geometry;
    return {
      ...this.#at,
      width: this.#size.width - g.left,
      height: this.#size.height - g.top,
      geometry: g,
    };
  }

  #revealed = "";
  /** A selection made elsewhere, or with the keys, comes into view; without one, of a new run or step the strongest cell. */
  #reveal({ state }: Scene): void {
    const g = this.#geometry,
      { layers, columns, run } = g.sheet;
    const none = state.token === null && state.layer === null;
    const key = JSON.stringify([state.token, state.layer, state.rows, none && [run.id, state.step]]);
    if (key === this.#revealed) return;
    this.#revealed = key;
    const best = none ? strongest(g.sheet) : -1;
    const { row, column } =
      best < 0
        ? cellOf(g, layers.indexOf(state.layer ?? -1), columnOf(columns, state.token))
        : cellOf(g, Math.floor(best / columns.length), best % columns.length);
    const fit = (scroll: number, place: number, size: number, view: number) => {
      const [start, end] = [place * size, (place + 1) * size];
      if (place < 0 || (start >= scroll && end <= scroll + view)) return scroll;
      const far = end < scroll - 2 * size || start > scroll + view + 2 * size;
      return far ? (start + end - view) / 2 : start < scroll ? start - size : end + 3 * size - view; // slanted names reach to the right
    };
    this.#move(
      fit(this.#at.x, column, g.cellWidth, this.#size.width - g.left),
      fit(this.#at.y, row, g.cellHeight, this.#size.height - g.top),
    );
  }

  /** The grid for assistive technology: its size, and the selected cell. */
  #describe({ state }: Scene, sheet: Sheet): void {
    const g = this.#geometry;
    this.#scroll.setAttribute(
      "aria-label",
      `Heat map of ${sheet.title}: ${scaleText(sheet, state)}. Arrow keys move the selection.`,
    );
    this.#scroll.setAttribute("aria-rowcount", String(g.rows));
    this.#scroll.setAttribute("aria-colcount", String(g.columns));
    const layer = sheet.layers.indexOf(state.layer ?? -1),
      column = columnOf(sheet.columns, state.token);
    const { row, column: across } = cellOf(g, layer, column);
    this.#row.setAttribute("aria-rowindex", String(Math.max(0, row) + 1));
    this.#cell.setAttribute("aria-colindex", String(Math.max(0, across) + 1));
    this.#cell.setAttribute("aria-selected", String(layer >= 0 && column >= 0));
    const parts = [
      layer >= 0 && `layer ${state.layer}`,
      column >= 0 && named(sheet.columns[column].token),
      layer >= 0 && column >= 0 && number(sheet.values[layer * sheet.columns.length + column]),
    ].filter(Boolean);
    this.#cell.textContent = parts.join(", ") || "nothing selected";
    this.#scroll.setAttribute("aria-activedescendant", this.#cell.id);
  }

  /** Token and layer at the pointer; over a header only one of them. */
  #under(event: MouseEvent): { token: number | null; layer: number | null } {
    const g = this.#geometry;
    const box = this.#scroll.getBoundingClientRect();
    const x = event.clientX - box.left - g.left,
      y = event.clientY - box.top - g.top;
    const inView = x < this.#size.width - g.left && y < this.#size.height - g.top;
    const column = x >= 0 && inView ? Math.floor((x + this.#at.x) / g.cellWidth) : -1;
    const row = y >= 0 && inView ? Math.floor((y + this.#at.y) / g.cellHeight) : -1;
    const known = (place: number, all: number) => place >= 0 && place < all;
    const [rowKnown, columnKnown] = [known(row, g.rows), known(column, g.columns)];
    if ((x >= 0 && !columnKnown) || (y >= 0 && !rowKnown)) return { token: null, layer: null };
    const layer = layerAt(g, row, column),
      place = columnAt(g, row, column);
    const hasLayer = g.byLayers ? rowKnown : columnKnown,
      hasToken = g.byLayers ? columnKnown : rowKnown;
    const best = hasLayer && hasToken ? g.sheet.strongest?.[layer * g.sheet.columns.length + place] : undefined;
    return {
      token: hasToken ? (best !== undefined && best >= 0 ? best : g.sheet.columns[place].positions[0]) : null,
      layer: hasLayer ? g.sheet.layers[layer] : null,
    };
  }

  #click(event: MouseEvent): void {
    const { token, layer } = this.#under(event);
    const { state } = this.#store.scene!;
    if (token === null && layer === null) return;
    const cell = token !== null && layer !== null;
    if (token !== null && (event.shiftKey || !cell)) this.#store.set(picked(state, token, event.shiftKey));
    else if (cell) {
      const again = token === state.token && layer === state.layer && !state.also.length;
      this.#store.set(again ? { token: null, layer: null } : { token, layer });
    } else this.#store.set({ layer: layer === state.layer ? null : layer });
  }
}
