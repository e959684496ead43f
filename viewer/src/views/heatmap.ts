/** The heat map: colour bar, one grid per sheet, the numbers at the cursor, a minimap and the numbers as a table. */

import "./heatmap.css";

import { besideScene, BesideStore } from "../core/beside.ts";
import { h, setText } from "../core/dom.ts";
import { titleOf, type Line } from "../core/export.ts";
import { LIGHT } from "../core/ink.ts";
import { valuesAt } from "../core/metrics.ts";
import { part, type Drawing } from "../core/painter.ts";
import { isNoise, matrix, noiseFloor, tokenIndex, type Scene, type View } from "../core/scene.ts";
import { columnOf, sheets, strongest, type Sheet } from "../core/sheet.ts";
import type { Store } from "../core/store.ts";
import { exact, label, named, number } from "../core/tokens.ts";
import { Drawn } from "../core/track.ts";
import { capital } from "../core/words.ts";
import { below, caption, captions, heading } from "./figure.ts";
import { Grid } from "./heatmap-grid.ts";
import { geometry, paintSheet, type Geometry } from "./heatmap-paint.ts";
import { paintScale, scaleHeight } from "./heatmap-scale.ts";
import { NumbersTable } from "./heatmap-table.ts";
import { Minimap } from "./minimap.ts";

const DRAWING_WIDTH = 4000;

export class HeatmapView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  /** A view of its own: the heat map is on the screen before it. */
  readonly minimap = new Minimap(
    () => this.#grids[0]?.viewport(),
    (x, y) => this.#scrollTo(x, y),
  );
  #store: Store;
  #grids: Grid[] = [];
  #panels = h("div.heatmap-panels");
  #readout = h("p.heatmap-readout steady", { "data-said": "" });
  #live = h("p.visually-hidden", { "aria-live": "polite" });
  #table = new NumbersTable();
  readonly #own = this.watched({ width: 0, scroll: [0, 0] });
  #moved = false;

  constructor(store: Store) {
    super();
    this.#store = store;
    const body = h("div.heatmap-body", {}, this.#panels, this.minimap.element);
    this.element = h(
      "section.heatmap",
      { "aria-labelledby": "heatmap-title" },
      h("h2.visually-hidden", { id: "heatmap-title" }, "Heat map"),
      this.#readout,
      body,
      this.#live,
      this.#table.element,
    );
    this.draws(
      (scene) => this.#lay(scene),
      (scene) => this.#paint(scene),
      (scene) => this.#read(scene),
    );
    new ResizeObserver(() => {
      const width = this.element.clientWidth;
      if (width === this.#own.width) return;
      this.#own.width = width;
      this.minimap.show();
    }).observe(this.element);
  }

  override update(scene: Scene): void {
    super.update(scene);
    this.#table.update(scene);
  }

  #paint(scene: Scene): void {
    void this.#own.scroll; // the grids know where they are
    this.#grids.forEach((grid, i) => grid.paint(besideScene(scene, i)));
  }

  #lay(scene: Scene): void {
    const { width } = this.#own;
    if (!width) return; // known in the same frame, once the page is laid out: asking now would lay it out twice
    const made = sheets(scene),
      { state } = scene;
    const upright = state.rows === "tokens";
    while (this.#grids.length > made.length) this.#grids.pop()!.element.remove();
    while (this.#grids.length < made.length) {
      const grid = new Grid(new BesideStore(this.#store, this.#grids.length), (x, y) => this.#scrollTo(x, y));
      this.#grids.push(grid);
      this.#panels.append(grid.element);
    }
    const share = upright ? Math.floor((width - 44 - 16 * (made.length - 1)) / made.length) : width;
    const high = Math.max(
      220,
      Math.min(innerHeight * 0.62, 900) / (state.rows === "layers" ? Math.min(made.length, 2) : 1),
    );
    const once = made[0].shared,
      across = made.length > 1 && upright;
    this.#panels.classList.toggle("heatmap-across", across);
    this.#grids.forEach((grid, i) => {
      const legend = once ? (i ? null : together(made)) : made[i];
      grid.lay(
        besideScene(scene, i),
        made[i],
        made,
        Math.max(200, share),
        high,
        made.length > 1 || made[i].signed,
        legend,
        across && !once ? null : width,
      );
    });
    this.minimap.show();
  }

  /** The keyboard's, for who skips what is above. */
  focus(): void {
    this.#grids[0]?.focus();
  }

  /** One cell further, in the directions of the screen, in the run that has the selection; from nothing to the strongest cell. */
  move(whole: Scene, across: number, down: number): void {
    const place = this.#grids.findIndex((grid) => grid.element.contains(document.activeElement));
    const run = Math.max(0, place < 0 ? this.#store.state.of : place) % whole.beside.length;
    const sheet = sheets(whole)[run],
      { state } = besideScene(whole, run);
    this.#store.hover(); // the pointer rests somewhere: the keys count now
    const { columns, layers } = sheet;
    if (state.token === null && state.layer === null) {
      const place = strongest(sheet);
      if (place >= 0) this.#choose(run, sheet, Math.floor(place / columns.length), place % columns.length);
      return;
    }
    const [alongTokens, alongLayers] = state.rows === "layers" ? [across, -down] : [down, across];
    const clamped = (place: number, count: number) => Math.max(0, Math.min(count - 1, place));
    const column = columnOf(columns, state.token),
      layer = state.layer === null ? -1 : layers.indexOf(state.layer);
    this.#choose(
      run,
      sheet,
      alongLayers
        ? layer < 0
          ? alongLayers > 0
            ? 0
            : layers.length - 1
          : clamped(layer + alongLayers, layers.length)
        : layer,
      alongTokens ? (column < 0 ? 0 : clamped(column + alongTokens, columns.length)) : column,
    );
  }

  #choose(of: number, sheet: Sheet, layer: number, column: number): void {
    const found = layer >= 0 && column >= 0 ? sheet.strongest?.[layer * sheet.columns.length + column] : undefined;
    const token = column < 0 ? null : found !== undefined && found >= 0 ? found : sheet.columns[column].positions[0];
    this.#store.set({ token, of, layer: layer < 0 ? null : sheet.layers[layer] });
    this.#moved = true;
  }

  #scrollTo(x: number, y: number): void {
    for (const grid of this.#grids) grid.scrollTo(x, y);
    this.#own.scroll = [x, y];
    this.minimap.show();
  }

  /** Exact numbers of the cell under the pointer or, without one, of the selected one. */
  #read(scene: Scene): void {
    const { state, hover, pointed, selected } = scene;
    const hovering = hover.layer !== null || pointed.some((position) => position !== null);
    const positions = hovering ? pointed : selected.map(([token]) => token),
      layer = hovering ? hover.layer : state.layer;
    const none = layer === null && positions.every((position) => position === null);
    const text = none ? "Point at a cell for its numbers, click to select it." : describe(scene, positions, layer);
    setText(this.#readout, text);
    this.#readout.classList.toggle("muted", none);
    if (this.#moved && !hovering) this.#live.textContent = text;
    this.#moved = false;
  }

  drawing(scene: Scene): Drawing | null {
    const made = sheets(scene);
    const { state } = scene;
    const layouts = made.map((sheet) => fitting(sheet, state.rows, made));
    const width = Math.max(640, ...layouts.map((g) => g.width));
    const scales = made.map((sheet) => scaleHeight(sheet, state, width));
    const blocks = layouts.map((g, i) => g.height + scales[i] + 34);
    const lines = made.length > 1 ? [] : captions(scene);
    const title = made[0].signed ? `Heat map of ${made[0].title}` : "Heat map";
    const top = below(lines) + 10;
    return {
      title: titleOf(scene, "heat map"),
      width: width + 32,
      height: top + blocks.reduce((sum, block) => sum + block, 0),
      draw: (painter) => {
        heading(painter, LIGHT, title, lines);
        let y = top - 20;
        layouts.forEach((g, i) => {
          if (made.length > 1)
            painter.text(16, y + 10, caption(g.sheet.run, scene).join(), { size: 12, bold: true, colour: LIGHT.ink });
          paintScale(painter, g.sheet, state, LIGHT, 16, y + 18, width);
          paintSheet(part(painter, 16, y + scales[i] + 22, g.width, g.height), g, state, LIGHT, 0, 0, {
            ...besideScene(scene, i).state,
            hover: { token: null, layer: null },
          });
          y += blocks[i];
        });
      },
    };
  }

  /** One line for each value; a folded picture has those of its strongest patches. */
  lines(scene: Scene): Line[] {
    return sheets(scene).flatMap(({ title, run, layers, columns, values, strongest }) =>
      [...values].flatMap((value, place) => {
        const column = columns[place % columns.length];
        const token = run.tokens[tokenIndex(run, strongest?.[place] ?? null)] ?? column.token;
        return isNaN(value)
          ? []
          : { run: title, more: { layer: layers[Math.floor(place / columns.length)] }, token, value };
      }),
    );
  }
}

/** One legend for all of them. */
function together(made: Sheet[]): Sheet {
  const sum = (of: (sheet: Sheet) => number) => made.reduce((all, sheet) => all + of(sheet), 0);
  return {
    ...made[0],
    measured: sum((sheet) => sheet.measured),
    empty: sum((sheet) => sheet.empty),
    below: sum((sheet) => sheet.below),
  };
}

/** "layer 3, token blue at position 9: L2 distance 0.5, cosine distance 0.01", for every shown run; `positions`: in each of them. */
function describe(scene: Scene, positions: (number | null)[], layer: number | null): string {
  const { runs, state } = scene,
    made = sheets(scene),
    [first] = made;
  const some = positions.findIndex((position) => position !== null);
  const where = [layer === null ? "" : `layer ${layer}`, some < 0 ? "" : nameAt(runs, positions)]
    .filter(Boolean)
    .join(", ");
  const columns = made.map((sheet, i) => columnOf(sheet.columns, positions[i]));
  if (layer === null || some < 0 || columns.every((column) => column < 0))
    return capital(`${where}${peak(made[first.signed ? 0 : some] ?? first, layer, columns[first.signed ? 0 : some])}`);
  const values = runs.map((run, i) => {
    const of = runs.length > 1 ? `${run.name}: ` : "";
    return of + valueText(run, state, layer, positions[i]);
  });
  const shown = first.signed
    ? differenceText(first.values[first.layers.indexOf(layer) * first.columns.length + columns[0]])
    : "";
  return capital(`${where} — ${values.join("; ")}${shown}`);
}

/** All metrics of one cell of a run. */
function valueText(run: Scene["run"], state: Scene["state"], layer: number, position: number | null): string {
  const places = [
    run.steps.indexOf(state.step),
    run.variants.indexOf(state.variant),
    run.layers.indexOf(layer),
    tokenIndex(run, position),
  ] as const;
  if (Math.min(...places) < 0) return "not measured";
  const values = valuesAt(run, ...places),
    after =
      state.query === null
        ? comesLater(run, state.step, position!) && "this step"
        : position! > state.query && `position ${state.query}`;
  if (!values) return `no value${after ? ` (the token comes after ${after})` : ""}`;
  const value = matrix(run, state).values[places[2] * run.tokens.length + places[3]];
  return values + (isNoise(value, noiseFloor(run, state, layer)) ? ", below the noise floor" : "");
}

/** Of a whole layer or a whole token: where it is largest. */
function peak({ values, columns, layers, outside }: Sheet, layer: number | null, column = -1): string {
  const row = layer === null ? -1 : layers.indexOf(layer);
  let best = -1;
  for (let place = 0; place < values.length; place++) {
    const [l, c] = [Math.floor(place / columns.length), place % columns.length];
    if ((row < 0 ? c !== column : l !== row || c === outside) || isNaN(values[place])) continue;
    if (best < 0 || Math.abs(values[place]) > Math.abs(values[best])) best = place;
  }
  if (best < 0) return " — no value";
  const where =
    row < 0
      ? `in layer ${layers[Math.floor(best / columns.length)]}`
      : `at ${named(columns[best % columns.length].token)}`;
  return ` — largest ${where}: ${exact(values[best])}`;
}

const differenceText = (value: number) =>
  isNaN(value) ? "; no difference, since the runs do not match here" : `; difference ${number(value)}`;

/** As the first run that has it calls it; and how the others do, where they have another token there. */
function nameAt(runs: Scene["runs"], positions: (number | null)[]): string {
  const tokens = runs.flatMap((run, i) => run.tokens[tokenIndex(run, positions[i])] ?? []);
  const others = new Set(
    tokens
      .slice(1)
      .filter(({ text }) => text !== tokens[0].text)
      .map((token) => label(token, 20)),
  );
  const name = tokens.length ? named(tokens[0]) : `position ${positions.find((position) => position !== null)}`;
  return [name, ...others].join(" / ");
}

function comesLater(run: Scene["run"], step: number, position: number): boolean {
  const length = run.manifest?.prompt_length;
  return length !== undefined && position >= length + step;
}

/** All of a sheet in a picture of at most DRAWING_WIDTH: cells get smaller, down to what still can be seen. */
function fitting(sheet: Sheet, rows: "layers" | "tokens", among: Sheet[]): Geometry {
  const tokens = Math.max(...among.map(({ columns }) => columns.length));
  const count = rows === "layers" ? tokens : sheet.layers.length;
  const cell = Math.max(1, Math.min(28, Math.floor((DRAWING_WIDTH - 60) / count)));
  const token = Math.max(1, Math.min(16, Math.floor(DRAWING_WIDTH / tokens)));
  const smallest = { width: cell, layer: 16, token };
  return geometry(sheet, rows, Math.max(700, Math.min(DRAWING_WIDTH, count * cell + 60)), 500, smallest, among);
}
