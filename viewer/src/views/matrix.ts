/**
 * A matrix on the page: what it shows in words, its colours, its cells on a canvas that may scroll, the numbers of the cell
 * under the pointer or the keyboard's cursor, and all numbers as a table. The views of heads, reads and effects say what
 * its rows, columns and cells are, and what a click on a cell does.
 */

import "./matrix.css";

import { h, moved, onKeys, setText } from "../core/dom.ts";
import { ink, type Ink } from "../core/ink.ts";
import { CanvasPainter, type Painter } from "../core/painter.ts";
import type { Hover, Scene, View } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import type { Scenes } from "../core/store.ts";
import { Drawn } from "../core/track.ts";
import { gradient } from "./figure.ts";
import type { Cell, Layout } from "./matrix-paint.ts";

/** The words around a matrix. */
export interface Words {
  what: string;
  /** Ends of the colours, and what else there is to know about them. */
  scale: { low: string; high: string; signed: boolean; notes: string[] };
  /** For assistive technology. */
  label: string;
}

/** The numbers, row by row. */
export interface NumbersTable {
  caption: (rowsLeft: number) => string;
  corner: string;
  columns: string[];
  rows: number;
  /** Whether the names of rows are tokens. */
  ofTokens: boolean;
  row: (row: number) => { name: string; mark: Record<string, number>; cells: string[] };
}

interface Options {
  /** What assistive technology calls the canvas and the table. */
  role: string;
  numbers: string;
  /** Class of the box around the canvas; one that scrolls shows at most `tallest` pixels. */
  box: string;
  scrolls: boolean;
  tallest?: number;
  /** Keys that choose the cell under the cursor. */
  keys?: RegExp;
}

const MOST_CELLS = 3000; // of the table

export abstract class MatrixView<Found> extends Drawn<Scene> implements View {
  abstract override readonly element: HTMLElement;
  protected readonly store: Scenes;
  readonly #options: Options;
  #cursor: Cell = [0, 0];
  #layout: Layout | null = null;
  #view: [width: number, height: number] = [0, 0];
  readonly #own = this.watched({ width: 0, pointer: null as Cell | null, scroll: [0, 0], open: false });

  protected readonly what = h("p.matrix__what");
  protected readonly legend = h("div.matrix__legend");
  protected readonly readout = h("p.matrix__readout steady", { "aria-live": "polite", "data-said": "" });
  protected readonly canvas: HTMLCanvasElement;
  protected readonly box: HTMLElement;
  protected readonly details: HTMLDetailsElement;
  #room: HTMLElement;
  #numbers: HTMLElement;

  constructor(store: Scenes, options: Options) {
    super();
    this.store = store;
    this.#options = options;
    this.canvas = h("canvas", { role: "application", "aria-roledescription": options.role, tabindex: 0 });
    this.#room = h("div", {}, this.canvas);
    this.box = h(
      "div",
      { class: options.box, onscroll: () => (this.#own.scroll = [this.box.scrollLeft, this.box.scrollTop]) },
      this.#room,
    );
    this.#numbers = h("div.matrix__numbers", { tabindex: 0, role: "region", "aria-label": options.numbers });
    this.details = h("details", {}, h("summary", {}, "Exact numbers"), this.#numbers);
    this.details.ontoggle = () => (this.#own.open = this.details.open);
    this.#listen();
    this.draws(
      (scene) => this.#explain(scene),
      (scene) => this.#fillTable(scene),
      (scene) => this.#lay(scene),
      (scene) => this.#reveal(scene),
      (scene) => this.#paint(scene),
      (scene) => this.#say(scene),
    );
    new ResizeObserver(([{ contentRect }]) => {
      this.#own.width = contentRect.width;
    }).observe(this.box);
  }

  protected get width(): number {
    return this.#own.width;
  }

  // --- what a view has to say -----------------------------------------------------------------------------
  /** Null: there is nothing to show, and the view is hidden. */
  protected abstract find(scene: Scene): Found | null;
  protected abstract sizeOf(found: Found): { rows: number; columns: number };
  /** Updates what else the view has, too: controls, notes. */
  protected abstract explain(scene: Scene, found: Found): Words;
  protected abstract layOut(scene: Scene, found: Found, width: number): Layout | null;
  protected abstract paint(
    painter: Painter,
    ink: Ink,
    scene: Scene,
    found: Found,
    layout: Layout,
    pointer: Cell | null,
  ): void;
  /** The sentence about a cell, or without a pointer about what is selected. */
  protected abstract say(scene: Scene, found: Found, pointer: Cell | null): string;
  protected abstract hovered(scene: Scene, found: Found, cell: Cell): Partial<Hover>;
  protected abstract chosen(scene: Scene, found: Found, cell: Cell, more: boolean): Partial<State>;
  protected abstract table(scene: Scene, found: Found): NumbersTable;
  /** What is selected elsewhere and has to be in view. */
  protected shown(_scene: Scene, _found: Found): Cell | null {
    return null;
  }
  /** The cell that a place stands for; null: none. */
  protected cellAt(cell: Cell): Cell | null {
    return cell;
  }

  // --- drawing --------------------------------------------------------------------------------------------
  #explain(scene: Scene): void {
    const found = this.find(scene);
    this.element.hidden = !found;
    if (!found) return this.gone();
    const { what, scale, label } = this.explain(scene, found);
    this.what.textContent = what;
    const bar = h("i");
    bar.style.background = gradient(scene.state, scale.signed);
    this.legend.replaceChildren(scale.low, bar, scale.high, ...scale.notes.map((note) => h("span", {}, note)));
    this.canvas.setAttribute("aria-label", label);
  }

  /** There is nothing to show any more. */
  protected gone(): void {}

  #fillTable(scene: Scene): void {
    const found = this.#own.open && this.find(scene);
    if (!found) return;
    const { caption, corner, columns, rows, row, ofTokens } = this.table(scene, found);
    const most = Math.min(rows, Math.ceil(MOST_CELLS / columns.length));
    const body = Array.from({ length: most }, (_, place) => {
      const { name, mark, cells } = row(place);
      return h(
        "tr",
        mark,
        h("th", { scope: "row", class: ofTokens ? "mono" : null }, name),
        ...cells.map((text) => h("td", {}, text || "–")),
      );
    });
    const head = h("tr", {}, ...[corner, ...columns].map((each) => h("th", { scope: "col" }, each)));
    const text = caption(rows - most);
    this.#numbers.replaceChildren(
      h("table", {}, text && h("caption", {}, text), h("thead", {}, head), h("tbody", {}, ...body)),
    );
  }

  #lay(scene: Scene): void {
    const found = this.find(scene),
      { width } = this.#own;
    this.#layout = found && width ? this.layOut(scene, found, width) : null;
    if (!this.#layout) return;
    const { size } = this.#layout,
      { scrolls, tallest = Infinity } = this.#options;
    [this.#room.style.width, this.#room.style.height] = size.map((each) => `${each}px`);
    const room = scrolls ? [this.box.clientWidth || size[0], this.box.clientHeight || size[1]] : size;
    this.#view = [Math.min(room[0], size[0]), Math.min(room[1], size[1], tallest)];
    [this.canvas.style.width, this.canvas.style.height] = this.#view.map((each) => `${each}px`);
  }

  #revealed = "";
  #reveal(scene: Scene): void {
    const found = this.find(scene),
      cell = found && this.shown(scene, found);
    const key = JSON.stringify([cell, this.#layout?.size]);
    if (!cell || !this.#layout || key === this.#revealed) return;
    this.#revealed = key;
    if (!this.#own.pointer) this.#show(cell);
  }

  #show([row, column]: Cell): void {
    const { left, top, wide, high } = this.#layout!,
      [width, height] = this.#view,
      box = this.box;
    const within = (scroll: number, names: number, cell: number, place: number, room: number) =>
      Math.max(names + cell * (place + 1) + 2 - room, Math.min(scroll, cell * place));
    if (row >= 0) box.scrollTop = within(box.scrollTop, top, high, row, height);
    if (column >= 0) box.scrollLeft = within(box.scrollLeft, left, wide, column, width);
  }

  #paint(scene: Scene): void {
    const found = this.find(scene),
      { scroll, pointer } = this.#own;
    if (!found || !this.#layout) return;
    [this.#layout.x, this.#layout.y] = scroll;
    const painter = new CanvasPainter(this.canvas, ...this.#view, devicePixelRatio);
    this.paint(painter, ink(scene.dark), scene, found, this.#layout, pointer);
  }

  #say(scene: Scene): void {
    const found = this.find(scene);
    if (found) setText(this.readout, this.say(scene, found, this.#own.pointer));
  }

  // --- pointer and keyboard -------------------------------------------------------------------------------
  #listen(): void {
    const { canvas } = this;
    canvas.onpointermove = (event) => this.point(this.#under(event));
    canvas.onpointerleave = canvas.onblur = () => this.point(null);
    canvas.onclick = (event) => this.#choose(this.#under(event), event.shiftKey);
    canvas.onfocus = () => canvas.matches(":focus-visible") && this.point(this.#cursor);
    onKeys(canvas, (event) => this.#press(event));
  }

  #found(): [scene: Scene, found: Found] | null {
    const { scene } = this.store,
      found = scene && this.find(scene);
    return scene && found ? [scene, found] : null;
  }

  #under({ offsetX, offsetY }: MouseEvent): Cell | null {
    const now = this.#found();
    if (!now || !this.#layout) return null;
    const { left, top, wide, high, x, y } = this.#layout,
      { rows, columns } = this.sizeOf(now[1]);
    const row = offsetY < top ? -1 : Math.floor((offsetY - top + y) / high);
    const column = offsetX < left ? -1 : Math.floor((offsetX - left + x) / wide);
    return row >= rows || column >= columns || (row < 0 && column < 0) ? null : this.cellAt([row, column]);
  }

  protected point(cell: Cell | null): void {
    const before = this.#own.pointer;
    if (before?.[0] === cell?.[0] && before?.[1] === cell?.[1]) return;
    this.#own.pointer = cell;
    const now = this.#found();
    this.store.hover(now && cell ? this.hovered(...now, cell) : {});
  }

  #choose(cell: Cell | null, more: boolean): void {
    const now = this.#found();
    if (!cell || !now) return;
    if (cell[0] >= 0 && cell[1] >= 0) this.#cursor = cell;
    this.store.set(this.chosen(...now, cell, more));
  }

  #press(event: KeyboardEvent): boolean {
    const now = this.#found();
    if (!now) return false;
    const { rows, columns } = this.sizeOf(now[1]);
    const cell = moved(event, [...this.#cursor], rows, columns);
    if (cell) {
      this.#cursor = cell;
      this.#show(cell);
      this.point(cell);
    } else if ((this.#options.keys ?? /^(Enter| )$/).test(event.key))
      this.#choose(this.#cursor, event.shiftKey || /l/i.test(event.key));
    else return false;
    return true;
  }
}
