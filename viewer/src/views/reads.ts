/** Which position reads which: a map of query positions and hidden tokens, layer by layer. */

import { CURVES, risingSizes, share, table as colours } from "../core/colour.ts";
import { h } from "../core/dom.ts";
import { titleOf as fileTitle, type Line } from "../core/export.ts";
import { LIGHT, type Ink } from "../core/ink.ts";
import { titleOf, valuesAt } from "../core/metrics.ts";
import { part, type Drawing, type Painter } from "../core/painter.ts";
import { largestOf, reads, type Reads } from "../core/reads.ts";
import { isNoise, places, tokenIndex, type Scene } from "../core/scene.ts";
import { withState, type State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { exact, label, named, number } from "../core/tokens.ts";
import { capital, layerText, modelName, moves, predicted, variantName, whose } from "../core/words.ts";
import { atQuery } from "../data/queries.ts";
import { colourBar, heading } from "./figure.ts";
import { CHARACTER, LABEL, LONGEST, NUMBER_WIDTH, short, SLANT } from "./heatmap-paint.ts";
import { boxOf, eachColumn, eachRow, isNamed, paintCells, type Cell, type Layout } from "./matrix-paint.ts";
import { MatrixView, type NumbersTable, type Words } from "./matrix.ts";
import { LayerPlayer } from "./slider.ts";

const SMALLEST = 1.25,
  NAMED = 14; // pixels of a cell: to be seen, and to have its row named
const title = "Which position reads which";

export class ReadsView extends MatrixView<Reads> {
  readonly element: HTMLElement;
  #layer: LayerPlayer;
  #large: HTMLInputElement;

  constructor(store: Store) {
    super(store, {
      role: "matrix of reading positions and hidden tokens",
      numbers: "Exact numbers of what each position reads",
      box: "reads__box",
      scrolls: true,
    });
    this.#layer = new LayerPlayer(store, "reads-layer");
    this.#large = h("input", { type: "checkbox", onchange: () => store.set({ large: this.#large.checked }) });
    const sliders = h("div.sliders", {}, ...this.#layer.elements, h("label", {}, this.#large, "large cells"));
    this.element = h(
      "section.matrix reads",
      { "aria-label": title, hidden: true },
      ...[h("h2", {}, title), this.what, sliders, this.legend, this.readout, this.box, this.details],
    );
  }

  protected find(scene: Scene): Reads | null {
    return reads(scene);
  }

  protected override gone(): void {
    this.#layer.stop();
  }

  protected sizeOf({ rows, tokens }: Reads) {
    return { rows: rows.length, columns: tokens.length };
  }

  protected explain(scene: Scene, found: Reads): Words {
    const { run, runs, state } = scene;
    this.#layer.update(scene, layerText(state));
    this.#large.checked = state.large;
    const below = found.values.reduce((count, value) => count + Number(isNoise(value, found.floor)), 0);
    const notes = [
      CURVES[state.curve],
      found.outside >= 0 && "hatched: position 0, outside of the scale",
      below > 0 && `${below} below the noise floor ${number(found.floor)}`,
    ];
    const high = found.largest.length > 1 ? "largest of each row" : number(found.largest[0]);
    return {
      what:
        `Row: a position that reads. Column: a token hidden from it. Colour: how far ${whose(state.variant, run)} ` +
        `${moves(run, state)} at the position that reads${runs.length > 1 ? `, of ${run.name} alone` : ""}. ` +
        "Blank: not measured, since the token comes later.",
      scale: { low: "0", high, signed: false, notes: [notes.filter(Boolean).join("; ")] },
      label:
        `${title}: ${found.rows.length} positions by ${found.tokens.length} tokens, ${measured(found, state)}. ` +
        "Arrow keys move, Enter selects the token, Shift and Enter the position that reads.",
    };
  }

  protected layOut({ state }: Scene, found: Reads, width: number): Layout {
    const fit = layOut(found, width - 16, SMALLEST);
    this.#large.parentElement!.hidden = fit.wide >= NAMED;
    return state.large ? layOut(found, width - 16, NAMED) : fit;
  }

  protected override shown({ run, state }: Scene, found: Reads): Cell {
    return [found.queries.positions.indexOf(state.query ?? -1), tokenIndex(run, state.token)];
  }

  protected paint(...all: Parameters<typeof paint>): void {
    paint(...all);
  }

  protected say(scene: Scene, found: Reads, pointer: Cell | null): string {
    const [row, column] = pointer ?? this.shown(scene, found);
    if (row >= 0 && column >= 0) return sentence(scene, found, row, column);
    if (row < 0) {
      return "Point at a cell for its numbers, click to select its token; click the name of a row to see the whole page as that position does.";
    }
    const who = capital(named(found.rows[row]));
    return `${who} reads most: ${strongest(found, row)}. Click: the whole page as this position sees it.`;
  }

  protected hovered(_: Scene, { tokens }: Reads, [, column]: Cell) {
    return { token: tokens[column]?.position ?? null };
  }

  /** The token of a cell or of the name of a column; of the name of a row, or with `reader`, the position that reads. */
  protected chosen({ state }: Scene, { queries, tokens }: Reads, [row, column]: Cell, reader: boolean): Partial<State> {
    const query = queries.positions[row],
      token = tokens[column]?.position;
    if (row >= 0 && (reader || column < 0)) return { query: query === state.query ? null : query };
    return { token: token === state.token ? null : token };
  }

  protected table({ state }: Scene, found: Reads): NumbersTable {
    const { rows, tokens, values } = found;
    const name = (token: Reads["tokens"][number]) => `${token.position} ${label(token, LONGEST)}`;
    return {
      caption: (left) => `${measured(found, state)}${left ? `; ${left} more positions in the CSV` : ""}`,
      corner: "reads",
      columns: tokens.map(name),
      rows: rows.length,
      ofTokens: true,
      row: (row) => ({
        name: name(rows[row]),
        mark: { "data-query": rows[row].position },
        cells: tokens.map((_, column) => exact(values[row * tokens.length + column])),
      }),
    };
  }

  drawing(scene: Scene): Drawing | null {
    const found = reads(scene),
      { run, state } = scene;
    if (!found) return null;
    const layout = layOut(found, 1400, found.tokens.length > 200 ? 6 : NAMED);
    const byRow = found.largest.length > 1;
    const draw = (painter: Painter) => {
      const unit = `${byRow ? "of each row’s largest, " : ""}${measured(found, state)}`;
      const hatched = found.outside < 0 ? "" : " Hatched: position 0, outside of the scale.";
      const top = heading(painter, LIGHT, title, [
        [run.name, modelName(run)].filter(Boolean).join(" · "),
        `Row: a position that reads. Column: a token hidden from it. Blank: not measured.${hatched}`,
      ]);
      colourBar(painter, LIGHT, 16, top + 2, state, byRow ? 1 : found.largest[0], unit);
      const plain = { ...scene, hover: { token: null, layer: null } };
      paint(part(painter, 16, top + 34, ...layout.size), LIGHT, plain, found, layout, null);
    };
    return {
      title: fileTitle(
        { ...scene, state: withState(state, { query: null }) },
        "which position reads which",
        layerText(state),
      ),
      width: Math.max(640, layout.size[0] + 32),
      height: 122 + layout.size[1],
      draw,
    };
  }

  /** One line for each cell. */
  lines(scene: Scene): Line[] | null {
    const found = reads(scene);
    if (!found) return null;
    const { rows, tokens, values, queries, peak } = found,
      { layer, join } = scene.state;
    return [...values].flatMap((value, place) => {
      if (isNaN(value)) return [];
      const row = Math.floor(place / tokens.length);
      const where: Line["more"] = peak ? { layer: null, joined: join, peak_layer: peak[place] } : { layer };
      const query = { query_position: queries.positions[row], query_token: rows[row].text };
      const more: Line["more"] = { generation_step: queries.steps[row], ...query, ...where };
      return { run: found.run.name, more, token: tokens[place % tokens.length], value };
    });
  }
}

const measured = ({ run }: Reads, state: State) =>
  `${titleOf(run, state)} of ${variantName(state.variant)}, ${layerText(state)}`;

/** "Token ␣blue at position 9 reads token ␣a at position 8: L2 0.5, cosine 0.01 in layer 3". */
function sentence(
  { run, state }: Scene,
  { rows, tokens, values, peak, queries }: Reads,
  row: number,
  column: number,
): string {
  const place = row * tokens.length + column,
    query = rows[row],
    step = queries.steps[row];
  const next = predicted(run, step)?.text;
  const predicts = next !== undefined && query.position === (run.manifest?.prompt_length ?? 0) - 1 + step;
  const answer = predicts ? label({ ...query, kind: "text", members: undefined, text: next }, 16) : "";
  const who = `${capital(named(query, 24))}${answer && ` (predicts ${answer})`}`;
  const whom = named(tokens[column], 24);
  if (isNaN(values[place])) {
    return `${who} does not see ${whom}${tokens[column].position > query.position ? ", which comes later" : ", or it was not measured"}.`;
  }
  if (peak) {
    const where = `${layerText(state)}${state.join === "max" ? `, in layer ${peak[place]}` : ""}`;
    return `${who} reads ${whom}: ${titleOf(run, state)} ${exact(values[place])}, ${where}.`;
  }
  const one = atQuery(run, query.position),
    found = places(one, state);
  const cell = [Math.max(0, one.steps.indexOf(step)), found.variant, found.layer, column] as const;
  return `${who} reads ${whom}: ${valuesAt(one, ...cell)}, layer ${state.layer}.`;
}

/** The three tokens that a position reads most. */
function strongest({ tokens, values }: Reads, row: number): string {
  const own = values.subarray(row * tokens.length, (row + 1) * tokens.length);
  const order = [...own.keys()].filter((column) => own[column] > 0).sort((a, b) => own[b] - own[a]);
  const said = (column: number) =>
    `${label(tokens[column], 16)} at ${tokens[column].position} (${number(own[column])})`;
  return order.slice(0, 3).map(said).join(", ") || "nothing";
}

function layOut({ rows, tokens }: Reads, width: number, smallest: number): Layout {
  const longest = (list: typeof tokens) =>
    CHARACTER * list.reduce((most, token) => Math.max(most, label(token, LONGEST).length), 3);
  const left = Math.ceil(longest(rows) + CHARACTER * String(rows.at(-1)!.position).length + 22);
  const slanted = (side: number) => longest(tokens) * Math.abs(side);
  const top = Math.ceil(slanted(Math.sin((SLANT * Math.PI) / 180)) + 14);
  const overhang = Math.ceil(slanted(Math.cos((SLANT * Math.PI) / 180)));
  const fit = (width - left - overhang) / tokens.length;
  const wide = Math.max(smallest, Math.min(56, fit < 6 ? fit : Math.floor(fit))); // small ones fill what there is
  const high = Math.max(smallest, Math.min(26, wide));
  const size: Layout["size"] = [left + wide * tokens.length + overhang, top + high * rows.length + 2];
  return { left, top, wide, high, size, x: 0, y: 0 };
}

// --- drawing ----------------------------------------------------------------------------------------------
function paint(painter: Painter, ink: Ink, scene: Scene, found: Reads, layout: Layout, pointer: Cell | null): void {
  const {
      state: { palette, curve, least, query, token },
      run,
      hover,
    } = scene,
    { rows, tokens, values } = found;
  const scale = colours(palette),
    sizes = curve === "rank" ? risingSizes(values, (place) => place % tokens.length !== found.outside) : null;
  const cells = {
    rows: rows.length,
    columns: tokens.length,
    value: (row: number, column: number) => values[row * tokens.length + column],
    colour: (value: number, row: number) =>
      scale[Math.round(share(value, largestOf(found, row), { curve, least }, false, sizes) * 255)],
    empty: null,
    hatched: (value: number, _: number, column: number) => column === found.outside || isNoise(value, found.floor),
    gap: { from: 10 },
    number: { from: NUMBER_WIDTH, size: 10, text: short },
  };
  const selected: Cell = [
    query === null ? -1 : rows.findIndex(({ position }) => position === query),
    tokenIndex(run, token),
  ];
  const over: Cell = pointer ?? [-1, tokenIndex(run, hover.token)];
  paintCells(painter, ink, layout, cells, () => {
    for (const [cell, colour, thick] of [
      [selected, ink.accent, 2],
      [over, ink.ink, 1],
    ] as const) {
      for (const [stroke, wide] of [
        [ink.paper, 3],
        [colour, thick],
      ] as const) {
        if (cell[1] >= 0) painter.rect(...boxOf(layout, cells, [-1, cell[1]]), null, stroke, wide);
        if (cell[0] >= 0) painter.rect(...boxOf(layout, cells, [cell[0], -1]), null, stroke, wide);
      }
    }
  });
  paintNames(painter, ink, found, layout, selected, over);
}

function paintNames(
  painter: Painter,
  ink: Ink,
  { rows, tokens }: Reads,
  layout: Layout,
  selected: Cell,
  over: Cell,
): void {
  const { left, top, wide, high } = layout;
  const style = (place: number, axis: 0 | 1, kind: string) => {
    const [chosen, pointed] = [place === selected[axis], place === over[axis]];
    const colour = chosen ? ink.accent : kind === "special" && !pointed ? ink.muted : ink.ink;
    return { size: LABEL, mono: true, bold: chosen || pointed, colour };
  };
  eachRow(painter, layout, rows.length, (row, y) => {
    if (!isNamed(row, Math.ceil(11 / high), [selected[0], over[0]])) return;
    const token = rows[row],
      base = y + 0.5 * high + 4;
    painter.text(left - 6, base, label(token, LONGEST), { ...style(row, 0, token.kind), align: "right" });
    const colour = row === selected[0] ? ink.accent : ink.muted;
    painter.text(4, base, String(token.position), { size: LABEL, colour });
  });
  eachColumn(painter, layout, tokens.length, (column, middle) => {
    if (!isNamed(column, Math.ceil(12 / wide), [selected[1], over[1]])) return;
    const name = label(tokens[column], LONGEST);
    painter.text(middle + 3, top - 5, name, { ...style(column, 1, tokens[column].kind), turn: SLANT });
  });
  const corner = { size: LABEL, colour: ink.muted };
  painter.text(4, top - 24, "reads ↓", corner);
  painter.text(4, top - 10, "hidden →", corner);
}
