/** Layers x heads for the selected token, or for the strongest token in each cell while none is selected. */

import { isFirst } from "../core/aggregate.ts";
import { besideScene, onOneScale } from "../core/beside.ts";
import { colourAt, CURVES, paletteOf, risingSizes, share } from "../core/colour.ts";
import { h } from "../core/dom.ts";
import type { Line } from "../core/export.ts";
import { headMatrix, headNumber, order, type HeadMatrix } from "../core/head-matrix.ts";
import { LIGHT, type Ink } from "../core/ink.ts";
import { titleOf } from "../core/metrics.ts";
import type { Drawing, Painter } from "../core/painter.ts";
import { isNoise, rowMaxima, tokenIndex, type Scene } from "../core/scene.ts";
import { toggled } from "../core/series.ts";
import type { Scenes } from "../core/store.ts";
import { exact, named } from "../core/tokens.ts";
import { crossing, isDifference, moreOrLess, subject } from "../core/words.ts";
import { captions, colourBar, ends, heading } from "./figure.ts";
import { headColour, shown } from "./head-marks.ts";
import { emptyColour } from "./heatmap-paint.ts";
import { boxOf, eachColumn, eachRow, laidOut, paintCells, type Cell, type Layout } from "./matrix-paint.ts";
import { MatrixView, type NumbersTable, type Words } from "./matrix.ts";
import { shownValue } from "./shade.ts";

/** The matrix, and its places in the order shown. */
interface Found {
  matrix: HeadMatrix;
  rows: number[];
  columns: number[];
}

const BY_SUM = "sum";

export class HeadsView extends MatrixView<Found> {
  readonly element: HTMLElement;
  readonly #order = this.watched({ headOrder: "", layerOrder: "" });
  #note = h("p.matrix__note");

  constructor(store: Scenes) {
    super(store, {
      role: "matrix of layers and heads",
      numbers: "Exact numbers, layers by heads",
      box: "matrix__plot",
      scrolls: false,
      keys: /^(Enter| |l)$/i,
    });
    const sorting = (what: string, natural: string, key: "headOrder" | "layerOrder") => {
      const options = [h("option", { value: "" }, natural), h("option", { value: BY_SUM }, "by sum")];
      const select = h("select", { onchange: () => (this.#order[key] = select.value) }, ...options);
      return h("label", {}, `${what} `, select);
    };
    const controls = [sorting("Heads:", "by number", "headOrder"), sorting("Layers:", "last on top", "layerOrder")];
    this.element = h(
      "section.matrix",
      { "aria-label": "Heads" },
      h("div.matrix__head", {}, h("h2", {}, "Layers and heads"), h("div.matrix__controls", {}, ...controls)),
      ...[this.what, this.box, this.legend, this.readout, this.#note, this.details],
    );
  }

  protected find(scene: Scene): Found {
    const matrix = headMatrix(scene),
      { headOrder, layerOrder } = this.#order;
    return { matrix, ...order(matrix, layerOrder === BY_SUM, headOrder === BY_SUM) };
  }

  protected sizeOf({ rows, columns }: Found) {
    return { rows: rows.length, columns: columns.length };
  }

  protected explain(scene: Scene, { matrix }: Found): Words {
    const { state, run } = scene,
      none = !matrix.heads.length;
    for (const part of [this.box, this.legend, this.readout, this.details]) part.hidden = none;
    this.#note.textContent = none
      ? ""
      : "Click a cell: show that head. Shift-click it, or click the head's number: line in the plot.";
    const byRow = state.range === "row",
      what = whatText(scene),
      title = titleOf(run, state);
    const [low, high] = byRow
      ? [matrix.signed ? "" : "0", "largest of each layer"]
      : ends(largestOf(scene, matrix), matrix.signed);
    const below = matrix.values.some((value, cell) => isNoise(value, matrix.floors[cell]));
    return {
      what: none ? `This run has no values of single heads${crossing(state.variant) && " of cross-attention"}.` : what,
      scale: {
        low,
        high,
        signed: matrix.signed,
        notes: [[title, CURVES[state.curve]].filter(Boolean).join(", "), below ? "hatched: below the noise floor" : ""],
      },
      label:
        `${matrix.layers.length} layers by ${matrix.heads.length} heads, ${title}, ${what} ` +
        "Arrow keys move, Enter shows the head, L puts it into the line plot.",
    };
  }

  protected layOut(_: Scene, found: Found, width: number): Layout | null {
    const { layers, heads } = found.matrix;
    if (!heads.length) return null;
    const left = 30,
      top = 38;
    const wide = Math.max(3, Math.min(36, Math.floor((width - left - 2) / heads.length)));
    const high = Math.max(5, Math.min(22, Math.floor(380 / layers.length)));
    return laidOut({ left, top, wide, high }, this.sizeOf(found));
  }

  protected paint(...all: Parameters<typeof paint>): void {
    paint(...all);
  }

  protected say(scene: Scene, { matrix, rows, columns }: Found, pointer: Cell | null): string {
    const { run, state, hover } = scene,
      { layers, heads } = matrix;
    if (!run.layers.length || !heads.length) return "";
    const head = headNumber(state.variant);
    const selected = [layers.indexOf(hover.layer ?? state.layer ?? -1), head === null ? -1 : heads.indexOf(head)];
    const [layer, column] = pointer ? [rows[pointer[0]] ?? -1, columns[pointer[1]]] : selected;
    if (pointer?.[0] === -1) {
      const act = state.heads.includes(heads[column]) ? "take it out of" : "put it into";
      return `Head ${heads[column]}: click to ${act} the line plot.`;
    }
    return layer < 0 || column < 0
      ? strongestCell(scene, matrix)
      : cellText(scene, matrix, layer * heads.length + column);
  }

  protected override cellAt(cell: Cell): Cell | null {
    return cell[1] < 0 ? null : cell;
  }

  protected hovered({ run }: Scene, { matrix: { strongest, heads }, rows, columns }: Found, [row, column]: Cell) {
    if (row < 0) return {};
    const token = strongest ? strongest[rows[row] * heads.length + columns[column]] : -1;
    return { token: run.tokens[token]?.position ?? null, layer: run.layers[rows[row]] };
  }

  protected chosen({ state, run }: Scene, { matrix, rows, columns }: Found, [row, column]: Cell, intoLines: boolean) {
    const head = matrix.heads[columns[column]];
    if (intoLines || row < 0) return { heads: toggled(state.heads, head) };
    return shown(state, run.layers[rows[row]], `${crossing(state.variant)}Head_${head}`);
  }

  protected table(_: Scene, { matrix: { layers, heads, values }, rows, columns }: Found): NumbersTable {
    return {
      caption: () => "",
      corner: "layer",
      columns: columns.map((each) => `Head ${heads[each]}`),
      rows: rows.length,
      ofTokens: false,
      row: (row) => ({
        name: String(layers[rows[row]]),
        mark: {},
        cells: columns.map((each) => exact(values[rows[row] * heads.length + each])),
      }),
    };
  }

  drawing(scene: Scene): Drawing | null {
    const found = this.find(scene),
      { layers, heads, signed } = found.matrix;
    if (!heads.length) return null;
    const title = "Layers and heads";
    const wide = Math.max(12, Math.min(48, Math.floor(556 / heads.length)));
    const high = layers.length > 40 ? 12 : 20;
    const layout = laidOut({ left: 48, top: 160, wide, high }, this.sizeOf(found));
    const draw = (painter: Painter) => {
      const below = heading(painter, LIGHT, title, [...captions(scene, false), whatText(scene)]);
      const { state } = scene,
        byRow = state.range === "row";
      const unit = titleOf(scene.run, state) + (byRow ? ", each layer on its own scale" : "");
      colourBar(painter, LIGHT, 16, below + 4, state, byRow ? NaN : largestOf(scene, found.matrix), unit, signed);
      paint(painter, LIGHT, scene, found, layout, null);
    };
    return { title, width: Math.max(700, layout.size[0] + 14), height: layout.size[1] + 14, draw };
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

function whatText(scene: Scene): string {
  const { run, runs, state } = scene;
  const token = run.tokens[tokenIndex(run, state.token)];
  const signed = isDifference(state, runs),
    of = signed ? `, ${subject(scene)}` : "";
  const cross = crossing(state.variant) && "Heads of cross-attention. ";
  if (token) return `${cross}For ${named(token)}${of}.`;
  const without = !state.first && run.tokens.some(isFirst);
  return `${cross}No token is selected: each cell shows ${signed ? "the token that differs most" : "its strongest token"}${without ? " (position 0 left out)" : ""}${of}.`;
}

const largestIn = ({ values }: HeadMatrix) =>
  values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0);

/** The end of the scale: of all runs next to each other whose numbers are in one unit. */
const largestOf = (scene: Scene, matrix: HeadMatrix) =>
  matrix.signed
    ? largestIn(matrix)
    : Math.max(
        ...onOneScale(scene).map((run) =>
          largestIn(run === scene.run ? matrix : headMatrix(besideScene(scene, scene.beside.indexOf(run)))),
        ),
      );

function cellText(scene: Scene, matrix: HeadMatrix, cell: number): string {
  const value = matrix.values[cell];
  const [layer, head] = [
    matrix.layers[Math.floor(cell / matrix.heads.length)],
    matrix.heads[cell % matrix.heads.length],
  ];
  const token = scene.run.tokens[matrix.strongest?.[cell] ?? -1];
  const notes = [
    isNaN(value) ? "not measured" : matrix.signed && moreOrLess(scene, value),
    isNoise(value, matrix.floors[cell]) && "below the noise floor",
    token && named(token, 24),
  ];
  return [`Layer ${layer}, head ${head}: ${shownValue(matrix, value)}`, ...notes].filter(Boolean).join(", ");
}

function strongestCell(scene: Scene, matrix: HeadMatrix): string {
  const largest = largestIn(matrix);
  const cell = matrix.values.findIndex((value) => Math.abs(value) === largest);
  return cell < 0
    ? "No value was measured here."
    : `Largest: ${cellText(scene, matrix, cell).replace("Layer", "layer")}`;
}

// --- drawing ----------------------------------------------------------------------------------------------
function paint(painter: Painter, ink: Ink, scene: Scene, found: Found, layout: Layout, pointer: Cell | null): void {
  const { matrix, rows, columns } = found,
    { layers, heads, values, signed } = matrix;
  const { range, curve, least } = scene.state,
    palette = paletteOf(scene.state, signed);
  const maxima = range === "row" ? rowMaxima(values.map(Math.abs), heads.length, -1) : null,
    largest = largestOf(scene, matrix);
  const sizes = curve === "rank" ? risingSizes(values) : null;
  const cellAt = (row: number, column: number) => rows[row] * heads.length + columns[column];
  const end = (row: number) => (maxima ? maxima[rows[row]] : largest);
  const cells = {
    rows: rows.length,
    columns: columns.length,
    value: (row: number, column: number) => values[cellAt(row, column)],
    colour: (value: number, row: number) => colourAt(palette, share(value, end(row), { curve, least }, signed, sizes)),
    empty: emptyColour(matrix, ink),
    hatched: (value: number, row: number, column: number) => isNoise(value, matrix.floors[cellAt(row, column)]),
    gap: { free: Math.min(layout.wide, layout.high) > 7 ? 1 : 0 },
    number: { from: Infinity, size: 0, text: () => null },
  };
  paintCells(painter, ink, layout, cells, () => frames(painter, ink, scene, found, layout, pointer));
  const small = { size: 11, colour: ink.muted },
    { left, top, wide, high } = layout;
  // The outermost layers are always named; between them, what has room.
  eachRow(painter, layout, rows.length, (row, y) => {
    const isNamed = (rows.length - 1 - row) % Math.ceil(13 / high) === 0;
    if (isNamed) painter.text(left - 5, y + high / 2 + 4, String(layers[rows[row]]), { ...small, align: "right" });
  });
  const every = Math.ceil((heads.at(-1)! > 9 ? 17 : 11) / wide);
  eachColumn(painter, layout, columns.length, (column, middle) => {
    const head = heads[columns[column]],
      colour = headColour(scene.state, head, scene.dark);
    if (colour) painter.rect(middle - Math.min(wide, 14) / 2, top - 5, Math.min(wide, 14), 3, colour);
    const style = { ...small, align: "center" as const, ...(colour ? { colour, bold: true } : {}) };
    if (column % every === 0) painter.text(middle, top - 8, String(head), style);
  });
  painter.text(left, top - 24, "head", { size: 10, colour: ink.muted });
  painter.text(left - 5, top - 8, "layer", { size: 10, colour: ink.muted, align: "right" });
}

function frames(
  painter: Painter,
  ink: Ink,
  { state, hover }: Scene,
  found: Found,
  layout: Layout,
  pointer: Cell | null,
): void {
  const {
    matrix: { layers, heads },
    rows,
    columns,
  } = found;
  const frame = (cell: Cell, colour: string, thick: number) => {
    const [x, y, width, height] = boxOf(layout, { rows: rows.length, columns: columns.length }, cell);
    const box = [x - 0.5, y - 0.5, width, height] as const;
    if (layout.high > 9 && layout.wide > 9) painter.rect(...box, null, ink.paper, thick + 2);
    painter.rect(...box, null, colour, thick);
  };
  const rowOf = (layer: number | null) => rows.findIndex((each) => layers[each] === layer);
  const [selected, hovered, head] = [rowOf(state.layer), rowOf(hover.layer), headNumber(state.variant)];
  const column = head === null ? -1 : columns.findIndex((place) => heads[place] === head);
  if (hovered >= 0 && !pointer) frame([hovered, -1], ink.ink, 1);
  if (selected >= 0) frame([selected, -1], ink.accent, 1);
  if (column >= 0) frame([-1, column], ink.accent, 1);
  if (selected >= 0 && column >= 0) frame([selected, column], ink.accent, 2);
  if (pointer && pointer[0] >= 0) frame(pointer, ink.ink, 1.5);
}
