/** Layers x heads for the selected token, or for the strongest token in each cell while none is selected. */

import { colourAt, css, isLight, share } from "../core/colour.ts";
import { h, moved, onKeys, same } from "../core/dom.ts";
import type { Line } from "../core/export.ts";
import { headMatrix, headNumber, order, type HeadMatrix } from "../core/head-matrix.ts";
import { ink, LIGHT, type Ink } from "../core/ink.ts";
import { CanvasPainter, type Drawing, type Painter } from "../core/painter.ts";
import { noiseFloor, rowMaxima, tokenIndex, type Scene, type View } from "../core/scene.ts";
import { toggled } from "../core/series.ts";
import type { Store } from "../core/store.ts";
import { named } from "../core/tokens.ts";
import { crossing, exact, isDifference, METRICS, moreOrLess, subject } from "../core/words.ts";
import { captions, colourBar, ends, gradient, heading, ofRun } from "./figure.ts";
import { headColour, shown } from "./head-marks.ts";
import { shownValue } from "./shade.ts";
import "./heads.css";

/** Where what is, in pixels; rows and columns are places in the matrix, in the order shown. */
interface Layout {
  left: number;
  top: number;
  wide: number;
  high: number;
  rows: number[];
  columns: number[];
}

interface Cell {
  row: number; // in the order shown; -1: the header
  column: number;
}

export class HeadsView implements View {
  readonly element: HTMLElement;
  #store: Store;
  #scene: Scene | null = null;
  #layout: Layout = { left: 0, top: 0, wide: 1, high: 1, rows: [], columns: [] };
  #pointer: Cell | null = null;
  #cursor: Cell = { row: 0, column: 0 };
  #shown: unknown[] = [];
  #width = 0; // as observed: asking the element would lay out the page in the middle of an update

  #what = h("p.heads__what");
  #readout = h("p.heads__readout steady", { "aria-live": "polite" });
  #note = h("p.heads__note");
  #legend = h("div.heads__legend");
  #canvas = h("canvas", { role: "application", "aria-roledescription": "matrix of layers and heads", tabindex: 0 });
  #plot = h("div.heads__plot", {}, this.#canvas);
  #numbers = h("div.heads__numbers", { tabindex: 0, role: "region", "aria-label": "Exact numbers, layers by heads" });
  #details = h("details", { ontoggle: () => this.#fillTable() }, h("summary", {}, "Exact numbers"), this.#numbers);
  #headOrder = sorting("Heads:", "by number", () => this.#again());
  #layerOrder = sorting("Layers:", "last on top", () => this.#again());

  constructor(store: Store) {
    this.#store = store;
    const controls = h("div.heads__controls", {}, this.#headOrder.label, this.#layerOrder.label);
    this.element = h(
      "section.heads",
      { "aria-label": "Heads" },
      h("div.heads__head", {}, h("h2", {}, "Layers and heads"), controls),
      this.#what,
      this.#plot,
      this.#legend,
      this.#readout,
      this.#note,
      this.#details,
    );
    const canvas = this.#canvas;
    canvas.onpointermove = (event) => this.#point(this.#at(event));
    canvas.onpointerleave = () => this.#point(null);
    canvas.onclick = (event) => this.#choose(this.#at(event), event.shiftKey);
    onKeys(canvas, (event) => this.#press(event));
    canvas.onfocus = () => canvas.matches(":focus-visible") && this.#point(this.#cursor);
    canvas.onblur = () => this.#point(null);
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width === this.#width) return;
      this.#width = contentRect.width;
      this.#again();
    }).observe(this.#plot);
  }

  update(scene: Scene): void {
    this.#scene = scene;
    const { runs, state, hover, dark } = scene;
    const { metric, variant, step, range, first, palette, curve, compare, token, layer, heads } = state;
    const shown = [
      ...runs,
      runs.length,
      compare,
      metric,
      variant,
      step,
      range,
      first,
      palette,
      curve,
      token,
      layer,
      heads.join(),
      hover.layer,
      dark,
    ];
    if (same(shown, this.#shown)) return;
    this.#shown = shown;
    const matrix = headMatrix(scene);
    const none = !matrix.heads.length;
    for (const part of [this.#plot, this.#legend, this.#readout, this.#details]) part.hidden = none;
    this.#what.textContent = none
      ? `This run has no values of single heads${crossing(variant) && " of cross-attention"}.`
      : whatText(scene);
    this.#note.textContent = none
      ? ""
      : "Click a cell: show that head. Shift-click it, or click the head's number: line in the plot.";
    if (none) return;
    const bar = h("i");
    bar.style.background = gradient(state, matrix.signed);
    const [low, high] =
      state.range === "row"
        ? [matrix.signed ? "" : "0", "largest of each layer"]
        : ends(largestOf(matrix), matrix.signed);
    const unit = METRICS[metric] + (curve === "sqrt" ? ", square-root scale" : "");
    const below = matrix.values.some((value) => Math.abs(value) < floorOf(scene))
      ? "hatched: below the noise floor"
      : "";
    this.#legend.replaceChildren(low, bar, h("span", {}, high), h("span", {}, unit), h("span", {}, below));
    this.#canvas.setAttribute(
      "aria-label",
      `${matrix.layers.length} layers by ${matrix.heads.length} heads, ${METRICS[metric]}, ${whatText(scene)} ` +
        "Arrow keys move, Enter shows the head, L puts it into the line plot.",
    );
    this.#paint();
    if (this.#details.open) this.#fillTable();
  }

  #again(): void {
    this.#shown = [];
    if (this.#scene) this.update(this.#scene);
  }

  #matrix(): HeadMatrix {
    return headMatrix(this.#scene!);
  }

  #paint(): void {
    const scene = this.#scene!;
    const width = this.#width;
    if (!width) return;
    const matrix = this.#matrix();
    const orders = order(matrix, this.#layerOrder.bySum(), this.#headOrder.bySum());
    const left = 30;
    const wide = Math.max(3, Math.min(36, Math.floor((width - left - 2) / matrix.heads.length)));
    const high = Math.max(5, Math.min(22, Math.floor(380 / matrix.layers.length)));
    this.#layout = { left, top: 24, wide, high, ...orders };
    const size: [number, number] = [left + wide * matrix.heads.length + 2, 24 + high * matrix.layers.length + 2];
    [this.#canvas.style.width, this.#canvas.style.height] = size.map((each) => `${each}px`);
    drawMatrix(
      new CanvasPainter(this.#canvas, ...size, devicePixelRatio),
      ink(scene.dark),
      scene,
      matrix,
      this.#layout,
      this.#pointer,
    );
    this.#say();
  }

  #say(): void {
    const { run, state, hover } = this.#scene!;
    const matrix = this.#matrix();
    const { rows, columns } = this.#layout;
    const head = headNumber(state.variant);
    const chosen = matrix.layers.indexOf(hover.layer ?? state.layer ?? -1);
    const [layer, column] = this.#pointer
      ? [rows[this.#pointer.row] ?? -1, columns[this.#pointer.column]]
      : [chosen, head === null ? -1 : matrix.heads.indexOf(head)];
    const words =
      layer < 0 || column < 0
        ? strongestCell(this.#scene!, matrix)
        : cellText(this.#scene!, matrix, layer * matrix.heads.length + column);
    const header =
      this.#pointer?.row === -1
        ? `Head ${matrix.heads[column]}: click to ${state.heads.includes(matrix.heads[column]) ? "take it out of" : "put it into"} the line plot.`
        : words;
    const text = run.layers.length ? header : "";
    if (this.#readout.textContent !== text) this.#readout.textContent = text;
  }

  #at(event: PointerEvent | MouseEvent): Cell | null {
    const { left, top, wide, high, rows, columns } = this.#layout;
    const column = Math.floor((event.offsetX - left) / wide);
    const row = event.offsetY < top ? -1 : Math.floor((event.offsetY - top) / high);
    return column < 0 || column >= columns.length || row >= rows.length ? null : { row, column };
  }

  #point(cell: Cell | null): void {
    if (cell?.row === this.#pointer?.row && cell?.column === this.#pointer?.column) return;
    this.#pointer = cell;
    if (!this.#scene) return;
    const { run } = this.#scene;
    const layer = cell && cell.row >= 0 ? this.#layout.rows[cell.row] : -1;
    if (layer < 0) this.#store.hover();
    else {
      const { strongest, heads } = this.#matrix();
      const token = strongest ? strongest[layer * heads.length + this.#layout.columns[cell!.column]] : -1;
      this.#store.hover({ token: run.tokens[token]?.position ?? null, layer: run.layers[layer] });
    }
    this.#paint();
  }

  #choose(cell: Cell | null, intoLines: boolean): void {
    if (!cell || !this.#scene) return;
    const { state, run } = this.#scene;
    const head = this.#matrix().heads[this.#layout.columns[cell.column]];
    if (cell.row >= 0) this.#cursor = cell;
    if (intoLines || cell.row < 0) this.#store.set({ heads: toggled(state.heads, head) });
    else
      this.#store.set(shown(state, run.layers[this.#layout.rows[cell.row]], `${crossing(state.variant)}Head_${head}`));
  }

  #press(event: KeyboardEvent): boolean {
    const { rows, columns } = this.#layout,
      { row, column } = this.#cursor;
    const to = moved(event, [row, column], rows.length, columns.length);
    if (to) this.#point((this.#cursor = { row: to[0], column: to[1] }));
    else if (/^(Enter| |l)$/i.test(event.key)) this.#choose(this.#cursor, event.shiftKey || /l/i.test(event.key));
    else return false;
    return true;
  }

  #fillTable(): void {
    if (!this.#scene || !this.#details.open) return;
    const matrix = this.#matrix();
    const { rows, columns } = order(matrix, this.#layerOrder.bySum(), this.#headOrder.bySum());
    const head = h(
      "tr",
      {},
      h("th", { scope: "col" }, "layer"),
      ...columns.map((each) => h("th", { scope: "col" }, `Head ${matrix.heads[each]}`)),
    );
    const body = rows.map((layer) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, String(matrix.layers[layer])),
        ...columns.map((each) => h("td", {}, exact(matrix.values[layer * matrix.heads.length + each]) || "–")),
      ),
    );
    this.#numbers.replaceChildren(h("table", {}, h("thead", {}, head), h("tbody", {}, ...body)));
  }

  drawing(scene: Scene): Drawing | null {
    const matrix = headMatrix(scene);
    if (!matrix.heads.length) return null;
    const title = "Layers and heads";
    const orders = order(matrix, this.#layerOrder.bySum(), this.#headOrder.bySum());
    const layout = {
      left: 48,
      top: 160,
      wide: Math.max(12, Math.min(48, Math.floor(556 / matrix.heads.length))),
      high: matrix.layers.length > 40 ? 12 : 20,
      ...orders,
    };
    const width = Math.max(700, layout.left + layout.wide * matrix.heads.length + 16);
    const height = layout.top + layout.high * matrix.layers.length + 16;
    const draw = (painter: Painter) => {
      const below = heading(painter, LIGHT, title, [...captions(scene, false), whatText(scene)]);
      const { state } = scene;
      colourBar(
        painter,
        LIGHT,
        16,
        below + 4,
        state,
        state.range === "row" ? NaN : largestOf(matrix),
        METRICS[state.metric] + (state.range === "row" ? ", each layer on its own scale" : ""),
        matrix.signed,
      );
      drawMatrix(painter, LIGHT, scene, matrix, layout, null);
    };
    return { title, width, height, draw };
  }

  lines(scene: Scene): Line[] | null {
    const { layers, heads, values, strongest } = headMatrix(scene);
    const { run, state } = scene,
      chosen = tokenIndex(run, state.token);
    if (!heads.length) return null;
    return [...values].flatMap((value, cell) =>
      isNaN(value)
        ? []
        : {
            run: subject(scene),
            variant: `${crossing(state.variant)}Head_${heads[cell % heads.length]}`,
            more: { layer: layers[Math.floor(cell / heads.length)] },
            token: run.tokens[strongest?.[cell] ?? chosen],
            value,
          },
    );
  }
}

/** A select of two orders. */
function sorting(what: string, natural: string, changed: () => void): { label: HTMLElement; bySum: () => boolean } {
  const select = h(
    "select",
    { onchange: changed },
    h("option", { value: "" }, natural),
    h("option", { value: "sum" }, "by sum"),
  );
  return { label: h("label", {}, `${what} `, select), bySum: () => select.value === "sum" };
}

function whatText(scene: Scene): string {
  const { run, runs, state } = scene;
  const token = run.tokens[tokenIndex(run, state.token)];
  const signed = isDifference(state, runs),
    of = signed ? `, ${subject(scene)}` : ofRun(scene);
  const cross = crossing(state.variant) && "Heads of cross-attention. ";
  if (token) return `${cross}For ${named(token)}${of}.`;
  const without = !state.first && tokenIndex(run, 0) >= 0;
  return `${cross}No token is selected: each cell shows ${signed ? "the token that differs most" : "its strongest token"}${without ? " (position 0 left out)" : ""}${of}.`;
}

function floorOf({ run, runs, state }: Scene): number {
  const compared = isDifference(state, runs) ? runs.slice(0, 2) : [run];
  return Math.max(...compared.map((each) => noiseFloor(each, { ...state, variant: "Head_0" })));
}

const largestOf = ({ values }: HeadMatrix) =>
  values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0);

function cellText(scene: Scene, matrix: HeadMatrix, cell: number): string {
  const value = matrix.values[cell];
  const [layer, head] = [
    matrix.layers[Math.floor(cell / matrix.heads.length)],
    matrix.heads[cell % matrix.heads.length],
  ];
  const token = scene.run.tokens[matrix.strongest?.[cell] ?? -1];
  const missing = isNaN(value);
  const notes = [
    missing ? "not measured" : matrix.signed && moreOrLess(scene, value),
    Math.abs(value) < floorOf(scene) && "below the noise floor",
    token && named(token, 24),
  ];
  return [`Layer ${layer}, head ${head}: ${shownValue(matrix, value)}`, ...notes].filter(Boolean).join(", ");
}

function strongestCell(scene: Scene, matrix: HeadMatrix): string {
  const largest = largestOf(matrix);
  const cell = matrix.values.findIndex((value) => Math.abs(value) === largest);
  return cell < 0
    ? "No value was measured here."
    : `Largest: ${cellText(scene, matrix, cell).replace("Layer", "layer")}`;
}

function drawMatrix(
  painter: Painter,
  ink: Ink,
  scene: Scene,
  matrix: HeadMatrix,
  layout: Layout,
  pointer: Cell | null,
): void {
  const { state, hover, dark } = scene;
  const { left, top, wide, high, rows, columns } = layout;
  const count = columns.length;
  const maxima = state.range === "row" ? rowMaxima(matrix.values.map(Math.abs), count, -1) : null;
  const palette = matrix.signed ? "difference" : state.palette;
  const largest = largestOf(matrix);
  const floor = floorOf(scene);
  rows.forEach((layer, row) => {
    columns.forEach((head, column) => {
      const value = matrix.values[layer * count + head];
      const [x, y] = [left + column * wide, top + row * high];
      const [w, t] = [wide - (wide > 7 ? 1 : 0), high - (high > 7 ? 1 : 0)];
      const colour = colourAt(palette, share(value, maxima ? maxima[layer] : largest, state.curve, matrix.signed));
      painter.rect(x, y, w, t, isNaN(value) ? (matrix.signed ? ink.line : ink.empty) : css(colour));
      if (Math.abs(value) < floor) painter.hatch(x, y, w, t, isLight(colour) ? "#0006" : "#fff8");
    });
  });
  const small = { size: 11, colour: ink.muted };
  const everyRow = Math.ceil(13 / high);
  rows.forEach((layer, row) => {
    // The outermost layers are always named; between them, what has room.
    const fromEnd = rows.length - 1 - row;
    if (fromEnd % everyRow === 0)
      painter.text(left - 5, top + row * high + high / 2 + 4, String(matrix.layers[layer]), {
        ...small,
        align: "right",
      });
  });
  const everyColumn = Math.ceil((matrix.heads.at(-1)! > 9 ? 17 : 11) / wide);
  columns.forEach((place, column) => {
    const head = matrix.heads[place];
    const middle = left + column * wide + wide / 2;
    const colour = headColour(state, head, dark);
    if (colour) painter.rect(middle - Math.min(wide, 14) / 2, top - 5, Math.min(wide, 14), 3, colour);
    if (column % everyColumn === 0)
      painter.text(middle, top - 8, String(head), {
        ...small,
        align: "center",
        ...(colour ? { colour, bold: true } : {}),
      });
  });
  painter.text(left - 5, top - 8, "layer", { size: 10, colour: ink.muted, align: "right" });
  const frame = (row: number, column: number, rowCount: number, columnCount: number, colour: string, thick: number) => {
    const box = [left + column * wide - 0.5, top + row * high - 0.5, columnCount * wide, rowCount * high] as const;
    if (high > 9 && wide > 9) painter.rect(...box, null, ink.paper, thick + 2);
    painter.rect(...box, null, colour, thick);
  };
  const selectedRow = rows.findIndex((layer) => matrix.layers[layer] === state.layer);
  const hoveredRow = rows.findIndex((layer) => matrix.layers[layer] === hover.layer);
  const head = headNumber(state.variant);
  const selectedColumn = head === null ? -1 : columns.findIndex((place) => matrix.heads[place] === head);
  if (hoveredRow >= 0 && !pointer) frame(hoveredRow, 0, 1, count, ink.ink, 1);
  if (selectedRow >= 0) frame(selectedRow, 0, 1, count, ink.accent, 1);
  if (selectedColumn >= 0) frame(0, selectedColumn, rows.length, 1, ink.accent, 1);
  if (selectedRow >= 0 && selectedColumn >= 0) frame(selectedRow, selectedColumn, 1, 1, ink.accent, 2);
  if (pointer && pointer.row >= 0) frame(pointer.row, pointer.column, 1, 1, ink.ink, 1.5);
}
