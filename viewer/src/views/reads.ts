/** Which position reads which: a map of query positions and hidden tokens, layer by layer. */

import { colourAt, share, table } from "../core/colour.ts";
import { h, moved, onKeys, same } from "../core/dom.ts";
import { titleOf, type Line } from "../core/export.ts";
import { ink, LIGHT, type Ink } from "../core/ink.ts";
import { CanvasPainter, part, setPixel, type Drawing, type Painter } from "../core/painter.ts";
import { largestOf, reads, type Reads } from "../core/reads.ts";
import { places, tokenIndex, type Scene, type View } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { label, named, number } from "../core/tokens.ts";
import { exact, METRICS, modelName, predicted, variantName, whose } from "../core/words.ts";
import { at } from "../data/types.ts";
import { atQuery } from "../data/queries.ts";
import { colourBar, gradient, heading } from "./figure.ts";
import { CHARACTER, contrast, hatching, LABEL, LONGEST, NUMBER_WIDTH, short, SLANT } from "./heatmap-paint.ts";
import { layerText } from "./picture-words.ts";
import { LayerPlayer } from "./slider.ts";
import "./reads.css";

const SMALLEST = 1.25,
  NAMED = 14; // pixels of a cell: to be seen, and to have its row named
const MOST_CELLS = 3000; // of the table
const title = "Which position reads which";

type Cell = [row: number, column: number];

/** Where cells are: behind the names, which stay in place while the cells scroll. */
interface Layout {
  left: number;
  top: number;
  wide: number;
  high: number;
  /** All of it. */
  size: [width: number, height: number];
  /** What is scrolled away. */
  x: number;
  y: number;
}

export class ReadsView implements View {
  readonly element: HTMLElement;
  #store: Store;
  #scene!: Scene;
  #found: Reads | null = null;
  #layout!: Layout;
  #view: [width: number, height: number] = [0, 0];
  #pointer: Cell | null = null; // a row of -1: over the name of a column, and so on
  #cursor: Cell = [0, 0];
  #drawn: unknown[] = [];
  #layer: LayerPlayer;
  #large: HTMLInputElement;
  #sliders: HTMLElement;
  #what = h("p.heads__what");
  #legend = h("div.heads__legend");
  #readout = h("p.heads__readout steady", { "aria-live": "polite" });
  #canvas = h("canvas", {
    role: "application",
    "aria-roledescription": "matrix of reading positions and hidden tokens",
    tabindex: 0,
  });
  #room = h("div", {}, this.#canvas);
  #box = h("div.reads__box", { onscroll: () => this.#paint() }, this.#room);
  #numbers = h("div.heads__numbers", {
    tabindex: 0,
    role: "region",
    "aria-label": "Exact numbers of what each position reads",
  });
  #details = h("details", { ontoggle: () => this.#fillTable() }, h("summary", {}, "Exact numbers"), this.#numbers);

  constructor(store: Store) {
    this.#store = store;
    this.#layer = new LayerPlayer(store, "reads-layer");
    this.#large = h("input", { type: "checkbox", onchange: () => store.set({ large: this.#large.checked }) });
    this.#sliders = h("div.sliders", {}, ...this.#layer.elements, h("label", {}, this.#large, "large cells"));
    this.element = h(
      "section.heads reads",
      { "aria-label": title, hidden: true },
      h("h2", {}, title),
      this.#what,
      this.#sliders,
      this.#legend,
      this.#readout,
      this.#box,
      this.#details,
    );
    const canvas = this.#canvas;
    canvas.onpointermove = (event) => this.#point(this.#under(event));
    canvas.onpointerleave = canvas.onblur = () => this.#point(null);
    canvas.onclick = (event) => this.#choose(this.#under(event), event.shiftKey);
    canvas.onfocus = () => canvas.matches(":focus-visible") && this.#point(this.#cursor);
    onKeys(canvas, (event) => this.#press(event));
    new ResizeObserver(() => this.#lay()).observe(this.element);
  }

  update(scene: Scene): void {
    this.#scene = scene;
    const found = (this.#found = reads(scene)),
      { state, dark } = scene;
    this.element.hidden = !found;
    if (!found) return this.#layer.stop();
    this.#layer.update(scene, layerText(state));
    const uses = [found.values, scene.runs.length, state.large, state.palette, state.curve, dark];
    if (!same(uses, this.#drawn)) {
      this.#drawn = uses;
      this.#explain(scene, found);
      this.#fillTable();
      this.#lay();
    }
    this.#reveal(scene, found);
    this.#paint();
  }

  #revealed = "";
  /** What was selected elsewhere comes into view. */
  #reveal({ run, state }: Scene, found: Reads): void {
    const key = [run.id, state.token, state.query, state.large].join();
    if (key === this.#revealed) return;
    this.#revealed = key;
    if (!this.#pointer) this.#show(found.queries.positions.indexOf(state.query ?? -1), tokenIndex(run, state.token));
  }

  #show(row: number, column: number): void {
    const { left, top, wide, high } = this.#layout,
      [width, height] = this.#view,
      box = this.#box;
    if (row >= 0) box.scrollTop = Math.max(top + high * (row + 1) + 2 - height, Math.min(box.scrollTop, high * row));
    if (column >= 0)
      box.scrollLeft = Math.max(left + wide * (column + 1) + 2 - width, Math.min(box.scrollLeft, wide * column));
  }

  #explain({ run, runs, state }: Scene, found: Reads): void {
    this.#what.textContent =
      `Row: a position that reads. Column: a token hidden from it. Colour: ${colourText(state, run)}${runs.length > 1 ? `, of ${run.name} alone` : ""}. ` +
      "Blank: not measured, since the token comes later.";
    const bar = h("i"),
      byRow = found.largest.length > 1;
    bar.style.background = gradient(state, false);
    const below = found.values.reduce((count, value) => count + Number(value < found.floor), 0);
    const notes = [
      state.curve === "sqrt" && "square-root scale",
      found.outside >= 0 && "hatched: position 0, outside of the scale",
      below > 0 && `${below} below the noise floor ${number(found.floor)}`,
    ]
      .filter(Boolean)
      .join("; ");
    this.#legend.replaceChildren(
      "0",
      bar,
      byRow ? "largest of each row" : number(found.largest[0]),
      h("span", {}, notes),
    );
    this.#large.checked = state.large;
    this.#canvas.setAttribute(
      "aria-label",
      `${title}: ${found.rows.length} positions by ${found.tokens.length} tokens, ${measured(state)}. Arrow keys move, Enter selects the token, Shift and Enter the position that reads.`,
    );
  }

  /** Sizes, then the cells. */
  #lay(): void {
    const found = this.#found,
      width = this.element.clientWidth;
    if (!found || !width) return;
    const fit = layOut(found, width - 16, SMALLEST);
    this.#large.parentElement!.hidden = fit.wide >= NAMED;
    const layout = this.#scene.state.large ? layOut(found, width - 16, NAMED) : fit;
    this.#layout = layout;
    [this.#room.style.width, this.#room.style.height] = layout.size.map((each) => `${each}px`);
    this.#view = [
      Math.min(this.#box.clientWidth, layout.size[0]),
      Math.min(this.#box.clientHeight || layout.size[1], layout.size[1]),
    ];
    [this.#canvas.style.width, this.#canvas.style.height] = this.#view.map((each) => `${each}px`);
    this.#paint();
  }

  #paint(): void {
    const found = this.#found;
    if (!found || !this.#view[0]) return;
    [this.#layout.x, this.#layout.y] = [this.#box.scrollLeft, this.#box.scrollTop];
    draw(
      new CanvasPainter(this.#canvas, ...this.#view, devicePixelRatio),
      ink(this.#scene.dark),
      this.#scene,
      found,
      this.#layout,
      this.#pointer,
    );
    const text = this.#say(found);
    if (this.#readout.textContent !== text) this.#readout.textContent = text;
  }

  #say(found: Reads): string {
    const { state, run } = this.#scene;
    const [row, column] = this.#pointer ?? [
      found.queries.positions.indexOf(state.query ?? -1),
      tokenIndex(run, state.token),
    ];
    if (row >= 0 && column >= 0) return sentence(this.#scene, found, row, column);
    if (row >= 0)
      return `${capital(named(found.rows[row]))} reads most: ${strongest(found, row)}. Click: the whole page as this position sees it.`;
    return "Point at a cell for its numbers, click to select its token; click the name of a row to see the whole page as that position does.";
  }

  #under({ offsetX, offsetY }: MouseEvent): Cell | null {
    const { left, top, wide, high, x, y } = this.#layout,
      { rows, tokens } = this.#found!;
    const place = (offset: number, count: number) => (offset < count ? Math.floor(offset) : -1);
    const row = offsetY < top ? -1 : place((offsetY - top + y) / high, rows.length);
    const column = offsetX < left ? -1 : place((offsetX - left + x) / wide, tokens.length);
    return row < 0 && column < 0 ? null : [row, column];
  }

  #point(cell: Cell | null): void {
    this.#pointer = cell;
    this.#store.hover({ token: this.#found!.tokens[cell?.[1] ?? -1]?.position ?? null });
    this.#paint();
  }

  /** The token of a cell or of the name of a column; of the name of a row, or with `reader`, the position that reads. */
  #choose(cell: Cell | null, reader: boolean): void {
    if (!cell) return;
    const { state } = this.#scene,
      { queries, tokens } = this.#found!,
      [row, column] = cell;
    if (row >= 0 && column >= 0) this.#cursor = cell;
    const query = queries.positions[row],
      token = tokens[column]?.position;
    if (row >= 0 && (reader || column < 0)) this.#store.set({ query: query === state.query ? null : query });
    else if (token !== undefined) this.#store.set({ token: token === state.token ? null : token });
  }

  #press(event: KeyboardEvent): boolean {
    const { rows, tokens } = this.#found!;
    const cell = moved(event, this.#cursor, rows.length, tokens.length);
    if (cell) {
      this.#cursor = cell;
      this.#show(...cell);
      this.#point(cell);
    } else if (event.key === "Enter" || event.key === " ") this.#choose(this.#cursor, event.shiftKey);
    else return false;
    return true;
  }

  #fillTable(): void {
    const found = this.#found;
    if (!found || !this.#details.open) return;
    const { rows, tokens, values } = found,
      { state } = this.#scene;
    const shown = rows.slice(0, Math.ceil(MOST_CELLS / tokens.length)),
      left = rows.length - shown.length;
    const name = (token: Reads["tokens"][number]) => `${token.position} ${label(token, LONGEST)}`;
    this.#numbers.replaceChildren(
      h(
        "table",
        {},
        h("caption", {}, `${measured(state)}${left ? `; ${left} more positions in the CSV` : ""}`),
        h("thead", {}, h("tr", {}, ...["reads", ...tokens.map(name)].map((each) => h("th", { scope: "col" }, each)))),
        h(
          "tbody",
          {},
          ...shown.map((token, row) =>
            h(
              "tr",
              { "data-query": token.position },
              h("th.mono", { scope: "row" }, name(token)),
              ...tokens.map((_, column) => h("td", {}, exact(values[row * tokens.length + column]) || "–")),
            ),
          ),
        ),
      ),
    );
  }

  drawing(scene: Scene): Drawing | null {
    const found = reads(scene);
    if (!found) return null;
    const layout = layOut(found, 1400, found.tokens.length > 200 ? 6 : NAMED),
      width = Math.max(640, layout.size[0] + 32);
    return {
      title: titleOf(
        { ...scene, state: { ...scene.state, query: null } },
        "which position reads which",
        layerText(scene.state),
      ),
      width,
      height: 122 + layout.size[1],
      draw: (painter) => {
        const { state } = scene,
          unit = `${found.largest.length > 1 ? "of each row’s largest, " : ""}${measured(state)}`;
        const hatched = found.outside < 0 ? "" : " Hatched: position 0, outside of the scale.";
        const top = heading(painter, LIGHT, title, [
          [scene.run.name, modelName(scene.run)].filter(Boolean).join(" · "),
          `Row: a position that reads. Column: a token hidden from it. Blank: not measured.${hatched}`,
        ]);
        colourBar(painter, LIGHT, 16, top + 2, state, found.largest.length > 1 ? 1 : found.largest[0], unit);
        draw(
          part(painter, 16, top + 34, ...layout.size),
          LIGHT,
          { ...scene, hover: { token: null, layer: null } },
          found,
          layout,
          null,
        );
      },
    };
  }

  /** One line for each cell. */
  lines(scene: Scene): Line[] | null {
    const found = reads(scene);
    if (!found) return null;
    const { rows, tokens, values, queries, peak } = found,
      { layer } = scene.state;
    return [...values].flatMap((value, place) => {
      const row = Math.floor(place / tokens.length);
      const where: Line["more"] = peak ? { layer: null, joined: scene.state.join, peak_layer: peak[place] } : { layer };
      const more: Line["more"] = {
        generation_step: queries.steps[row],
        query_position: queries.positions[row],
        query_token: rows[row].text,
        ...where,
      };
      return isNaN(value) ? [] : { run: found.run.name, more, token: tokens[place % tokens.length], value };
    });
  }
}

const capital = (text: string) => text[0].toUpperCase() + text.slice(1);

const measured = (state: State) => `${METRICS[state.metric]} of ${variantName(state.variant)}, ${layerText(state)}`;

const colourText = (state: State, run: Reads["run"]) =>
  `how far ${whose(state.variant, run)} ${state.metric === "l2" ? "moves (length of the difference)" : "turns (1 − cosine)"} at the position that reads`;

/** "Token ␣blue at position 9 reads token ␣a at position 8: L2 0.5, cosine 0.01 in layer 3". */
function sentence(
  { run, state }: Scene,
  { rows, tokens, values, peak, queries }: Reads,
  row: number,
  column: number,
): string {
  const place = row * tokens.length + column,
    query = rows[row];
  const next = predicted(run, queries.steps[row]),
    predicts =
      next?.text !== undefined && query.position === (run.manifest?.prompt_length ?? 0) - 1 + queries.steps[row];
  const who = `${capital(named(query, 24))}${predicts ? ` (predicts ${label({ ...query, kind: "text", members: undefined, text: next.text! }, 16)})` : ""}`,
    whom = named(tokens[column], 24);
  if (isNaN(values[place]))
    return `${who} does not see ${whom}${tokens[column].position > query.position ? ", which comes later" : ", or it was not measured"}.`;
  if (peak)
    return `${who} reads ${whom}: ${METRICS[state.metric]} ${exact(values[place])}, ${layerText(state)}${state.join === "max" ? `, in layer ${peak[place]}` : ""}.`;
  const one = atQuery(run, query.position),
    found = places(one, state),
    step = Math.max(0, one.steps.indexOf(queries.steps[row]));
  const [l2, cosine] = (["l2", "cosine"] as const).map((metric) =>
    exact(at(one, metric, step, found.variant, found.layer, column)),
  );
  return `${who} reads ${whom}: L2 ${l2}, cosine ${cosine}, layer ${state.layer}.`;
}

/** The three tokens that a position reads most. */
function strongest({ tokens, values }: Reads, row: number): string {
  const own = values.subarray(row * tokens.length, (row + 1) * tokens.length);
  const order = [...own.keys()]
    .filter((column) => own[column] > 0)
    .sort((a, b) => own[b] - own[a])
    .slice(0, 3);
  return (
    order
      .map((column) => `${label(tokens[column], 16)} at ${tokens[column].position} (${number(own[column])})`)
      .join(", ") || "nothing"
  );
}

function layOut({ rows, tokens }: Reads, width: number, smallest: number): Layout {
  const longest = (list: typeof tokens) =>
    CHARACTER * list.reduce((most, token) => Math.max(most, label(token, LONGEST).length), 3);
  const left = Math.ceil(longest(rows) + CHARACTER * String(rows.at(-1)!.position).length + 22);
  const high = (degrees: number) => longest(tokens) * Math.abs(degrees);
  const top = Math.ceil(high(Math.sin((SLANT * Math.PI) / 180)) + 14),
    overhang = Math.ceil(high(Math.cos((SLANT * Math.PI) / 180)));
  const fit = (width - left - overhang) / tokens.length;
  const wide = Math.max(smallest, Math.min(56, fit < 6 ? fit : Math.floor(fit))); // small ones fill what there is
  const tall = Math.max(smallest, Math.min(26, wide));
  return {
    left,
    top,
    wide,
    high: tall,
    size: [left + wide * tokens.length + overhang, top + tall * rows.length + 2],
    x: 0,
    y: 0,
  };
}

function draw(
  painter: Painter,
  ink: Ink,
  scene: Scene,
  found: Reads,
  { left, top, wide, high, x, y }: Layout,
  pointer: Cell | null,
): void {
  const { state, run, hover } = scene,
    { rows, tokens, values } = found,
    T = tokens.length;
  const span = (scroll: number, size: number, cell: number, count: number) => [
    Math.max(0, Math.floor(scroll / cell)),
    Math.min(count, Math.ceil((scroll + size) / cell)),
  ];
  const [c0, c1] = span(x, painter.width - left, wide, T),
    [r0, r1] = span(y, painter.height - top, high, rows.length);
  if (c1 <= c0 || r1 <= r0) return;
  const colours = table(state.palette),
    raster = new ImageData(c1 - c0, r1 - r0),
    { data } = raster;
  const shade = (row: number, column: number) =>
    Math.round(share(values[row * T + column], largestOf(found, row), state.curve) * 255);
  for (let row = r0, place = 0; row < r1; row++) {
    for (let column = c0; column < c1; column++, place++)
      if (!isNaN(values[row * T + column])) setPixel(data, place, colours[shade(row, column)]);
  }
  const [originX, originY] = [left - x, top - y];
  const [chosenRow, chosen] = [
    state.query === null ? -1 : rows.findIndex(({ position }) => position === state.query),
    tokenIndex(run, state.token),
  ];
  const [overRow, over] = pointer ?? [-1, tokenIndex(run, hover.token)];
  const [endX, endY] = [
    Math.min(painter.width, originX + T * wide),
    Math.min(painter.height, originY + rows.length * high),
  ];
  painter.clip(left, top, endX - left, endY - top, () => {
    painter.cells(originX + c0 * wide, originY + r0 * high, raster.width * wide, raster.height * high, raster);
    for (let row = r0; row < r1; row++) {
      for (let column = c0; column < c1; column++) {
        const value = values[row * T + column];
        if (isNaN(value) || (wide < 6 && column !== found.outside)) continue;
        const colour = contrast(colourAt(state.palette, shade(row, column) / 255)),
          cell = [originX + column * wide, originY + row * high, wide, high] as const;
        if (column === found.outside || value < found.floor) painter.hatch(...cell, hatching(colour));
        if (wide >= NUMBER_WIDTH && high >= 16)
          painter.text(cell[0] + wide / 2, cell[1] + high / 2 + 3.5, short(value), {
            size: 10,
            align: "center",
            colour,
          });
      }
    }
    if (wide >= 10) {
      for (let column = c0 + 1; column < c1; column++)
        painter.rect(originX + column * wide - 0.5, top, 1, endY - top, ink.paper);
      for (let row = r0 + 1; row < r1; row++) painter.rect(left, originY + row * high - 0.5, endX - left, 1, ink.paper);
    }
    const frame = (row: number, column: number, colour: string, thick: number) => {
      if (column >= 0) painter.rect(originX + column * wide, originY, wide, rows.length * high, null, colour, thick);
      if (row >= 0) painter.rect(originX, originY + row * high, T * wide, high, null, colour, thick);
    };
    for (const [row, column, colour] of [
      [chosenRow, chosen, ink.accent],
      [overRow, over, ink.ink],
    ] as const) {
      frame(row, column, ink.paper, 3);
      frame(row, column, colour, colour === ink.accent ? 2 : 1);
    }
  });
  const style = (selected: boolean, hovered: boolean, kind: string) => ({
    size: LABEL,
    mono: true,
    bold: selected || hovered,
    colour: selected ? ink.accent : kind === "special" && !hovered ? ink.muted : ink.ink,
  });
  const [everyRow, everyColumn] = [Math.ceil(11 / high), Math.ceil(12 / wide)];
  // Where not every name has room, those next to a marked one make room for it.
  const named = (place: number, every: number, marked: number[]) =>
    marked.includes(place) ||
    (place % every === 0 && !marked.some((each) => each >= 0 && Math.abs(each - place) < every));
  painter.clip(0, top - 4, left, painter.height - top + 4, () => {
    for (let row = r0; row < r1; row++) {
      if (!named(row, everyRow, [chosenRow, overRow])) continue;
      const token = rows[row],
        look = style(row === chosenRow, row === overRow, token.kind),
        base = originY + (row + 0.5) * high + 4;
      painter.text(left - 6, base, label(token, LONGEST), { ...look, align: "right" });
      painter.text(4, base, String(token.position), {
        ...look,
        mono: false,
        bold: false,
        colour: row === chosenRow ? ink.accent : ink.muted,
      });
    }
  });
  painter.clip(left - 4, 0, painter.width - left + 4, top, () => {
    for (let column = c0; column < c1; column++) {
      if (!named(column, everyColumn, [chosen, over])) continue;
      painter.text(originX + (column + 0.5) * wide + 3, top - 5, label(tokens[column], LONGEST), {
        ...style(column === chosen, column === over, tokens[column].kind),
        turn: SLANT,
      });
    }
  });
  const corner = { size: LABEL, colour: ink.muted };
  painter.text(4, top - 24, "reads ↓", corner);
  painter.text(4, top - 10, "hidden →", corner);
}
