/** Effects on the answer: units by the layers in which they were masked, or a list with bars; and beside the impact. */

import { colourAt, css, isLight, share } from "../core/colour.ts";
import { h, moved, onKeys } from "../core/dom.ts";
import {
  BLOCKS,
  effectWords,
  MEASURES,
  points,
  shownEffects,
  spearman,
  STRONGEST,
  unitOrder,
  unitToken,
  where,
  type Point,
  type Shown,
} from "../core/effects.ts";
import type { Line } from "../core/export.ts";
import { ink, LIGHT, type Ink } from "../core/ink.ts";
import { CanvasPainter, part, type Drawing, type Painter } from "../core/painter.ts";
import type { Scene, View } from "../core/scene.ts";
import type { Store } from "../core/store.ts";
import { label, named, number, signed, visible } from "../core/tokens.ts";
import { exact, METRICS, variantName } from "../core/words.ts";
import { caption, colourBar, cut, ends, gradient, heading, ofRun, ticks } from "./figure.ts";
import "./effects.css";

const HIGH = 18,
  TOP = 30,
  SCATTER = 230;
const MOST_CELLS = 3000; // of the table

const CHOICES = { effect: "show", block: "hidden from", mask: "one value for a unit:", order: "sorted by" };

/** Row and column in the order shown. */
type Cell = [row: number, column: number];

export class EffectsView implements View {
  readonly element: HTMLElement;
  #store: Store;
  #scene!: Scene;
  #shown: Shown | null = null;
  #order: number[] = [];
  #points: Point[] = [];
  #pointer: Cell | null = null;
  #cursor: Cell = [0, 0];
  #size: [width: number, height: number] = [0, 0];
  #drawn: unknown[] = [];

  #controls = h("div.heads__controls");
  #selects = {} as Record<keyof typeof CHOICES, HTMLSelectElement>;
  #what = h("p.heads__what");
  #legend = h("div.heads__legend");
  #readout = h("p.heads__readout effects__said steady", { "aria-live": "polite" });
  #canvas = h("canvas", { role: "application", "aria-roledescription": "matrix of units and layers", tabindex: 0 });
  #room = h("div", {}, this.#canvas);
  #box = h("div.effects__box", { onscroll: () => this.#paint() }, this.#room);
  #rho = h("p.heads__what");
  #scatter = h("canvas", { role: "img" });
  #numbers = h("div.heads__numbers", { tabindex: 0, role: "region", "aria-label": "Exact effects" });
  #details = h("details", { ontoggle: () => this.#fillTable() }, h("summary", {}, "Exact numbers"), this.#numbers);

  constructor(store: Store) {
    this.#store = store;
    for (const key of Object.keys(CHOICES) as (keyof typeof CHOICES)[]) {
      const select = (this.#selects[key] = h("select", { onchange: () => store.set({ [key]: select.value }) }));
      this.#controls.append(h("label", {}, `${CHOICES[key]} `, select));
    }
    this.element = h(
      "section.heads",
      { "aria-label": title, hidden: true },
      h("div.heads__head", {}, h("h2", {}, title), this.#controls),
      this.#what,
      h("div.heads__plot", {}, this.#box),
      this.#legend,
      this.#readout,
      this.#rho,
      h("div.heads__plot", {}, this.#scatter),
      this.#details,
    );
    const canvas = this.#canvas,
      scatter = this.#scatter;
    canvas.onpointermove = (event) => this.#point(this.#at(event));
    canvas.onpointerleave = canvas.onblur = scatter.onpointerleave = () => this.#point(null);
    canvas.onclick = (event) => this.#choose(this.#at(event));
    onKeys(canvas, (event) => this.#press(event));
    canvas.onfocus = () => canvas.matches(":focus-visible") && this.#point(this.#cursor);
    scatter.onpointermove = (event) => this.#hover(this.#near(event));
    scatter.onclick = (event) => this.#select(this.#near(event));
    new ResizeObserver(() => this.#paint()).observe(this.#box);
  }

  update(scene: Scene): void {
    const { run, runs, state, dark } = scene;
    this.#scene = scene;
    const shown = (this.#shown = shownEffects(scene));
    this.element.hidden = !shown;
    if (!shown) return;
    const { metric, variant, order, palette, curve } = state;
    const drawn = [run, shown, runs.length, metric, variant, order, palette, curve, dark];
    if (drawn.some((each, i) => each !== this.#drawn[i])) {
      this.#drawn = drawn;
      this.#order = unitOrder(shown, order);
      this.#points = points(scene, shown);
      this.#explain(scene, shown);
      this.#fillTable();
    }
    this.#paint();
  }

  #explain(scene: Scene, shown: Shown): void {
    const { state } = scene,
      { effects, measures, measure, block, window } = shown;
    const layers = effects.windows.map((each) => [each, `layers ${each.replace("-", " to ")}`]);
    this.#fill(
      "effect",
      measures.map((each) => [each, MEASURES[each]]),
      measure,
    );
    this.#fill(
      "block",
      effects.blocks.map((each) => [each, BLOCKS[each]]),
      block,
    );
    this.#fill(
      "mask",
      layers.length > 1 ? [[STRONGEST, "strongest layers"], ...layers] : [],
      effects.windows[window] ?? STRONGEST,
    );
    this.#fill(
      "order",
      [
        ["position", "position"],
        ["strength", "strength"],
      ],
      state.order === "auto" ? (layers.length > 1 ? "position" : "strength") : state.order,
    );
    this.#what.textContent = shown.units.length
      ? `${whatText(scene, shown)}${ofRun(scene)}.`
      : `Not measured at step ${state.step + 1}.`;
    const bar = h("i"),
      [low, high] = ends(shown.largest, shown.signed),
      below = shown.values.some((value) => Math.abs(value) < shown.floor);
    bar.style.background = gradient(state, shown.signed);
    this.#legend.replaceChildren(
      low,
      bar,
      high,
      h(
        "span",
        {},
        [
          shown.signed && "below 0 the mask costs the answer",
          below && `hatched: below the noise ${number(shown.floor)}`,
        ]
          .filter(Boolean)
          .join("; "),
      ),
    );
    this.#canvas.setAttribute(
      "aria-label",
      `${shown.units.length} units by ${layers.length} ranges of layers, ${MEASURES[measure]}. Arrow keys move, Enter selects.`,
    );
    this.#rho.textContent = rhoText(scene, shown, this.#points);
    this.#scatter.setAttribute("aria-label", this.#rho.textContent);
    this.#scatter.hidden = this.#points.length < 2;
  }

  #fill(key: keyof typeof CHOICES, options: string[][], value: string): void {
    const select = this.#selects[key];
    select.replaceChildren(...options.map(([each, name]) => h("option", { value: each }, name)));
    select.value = value;
    select.parentElement!.hidden = options.length < 2;
  }

  #layout(width: number): Layout {
    const columns = this.#shown!.effects.windows.length,
      left = Math.min(150, width * 0.32);
    return {
      left,
      wide: columns > 1 ? Math.max(13, Math.min(72, (width - left - 2) / columns)) : width - left - 2,
      x: this.#box.scrollLeft,
      y: this.#box.scrollTop,
    };
  }

  #paint(): void {
    const shown = this.#shown,
      width = this.#box.clientWidth;
    if (!shown || !width) return;
    const layout = this.#layout(width),
      colours = ink(this.#scene.dark);
    this.#room.style.height = `${TOP + HIGH * this.#order.length + 2}px`;
    this.#room.style.width = `${layout.left + layout.wide * shown.effects.windows.length + 2}px`;
    const size = (this.#size = [width, Math.min(420, TOP + HIGH * this.#order.length + 2)] as [number, number]);
    [this.#canvas.style.width, this.#canvas.style.height] = size.map((each) => `${each}px`);
    drawUnits(
      new CanvasPainter(this.#canvas, ...size, devicePixelRatio),
      colours,
      this.#scene,
      shown,
      this.#order,
      layout,
      this.#pointer,
    );
    if (!this.#scatter.hidden)
      drawScatter(
        new CanvasPainter(this.#scatter, Math.min(width, 520), SCATTER, devicePixelRatio),
        colours,
        this.#scene,
        shown,
        this.#points,
      );
    [this.#scatter.style.width, this.#scatter.style.height] = [`${Math.min(width, 520)}px`, `${SCATTER}px`];
    this.#say(shown);
  }

  #say(shown: Shown): void {
    const { hover, state } = this.#scene,
      wanted = hover.token ?? state.token;
    const unit =
      shown.units[
        this.#pointer ? this.#order[this.#pointer[0]] : shown.units.findIndex(({ position }) => position === wanted)
      ];
    const window = this.#pointer ? shown.effects.windows[this.#pointer[1]] : unit?.strongest;
    const words = unit
      ? sentence(this.#scene, shown, unit, window)
      : "Point at a cell for its numbers, click to select the token.";
    if (this.#readout.textContent !== words) this.#readout.textContent = words;
  }

  #at({ offsetX, offsetY }: MouseEvent): Cell | null {
    const { left, wide, x, y } = this.#layout(this.#size[0]),
      columns = this.#shown!.effects.windows.length;
    const row = Math.floor((offsetY - TOP + y) / HIGH),
      column = offsetX < left ? 0 : Math.floor((offsetX - left + x) / wide);
    return offsetY < TOP || row >= this.#order.length || column >= columns ? null : [row, column];
  }

  #hover(position: number | null): void {
    this.#store.hover({ token: position });
  }

  #point(cell: Cell | null): void {
    this.#pointer = cell;
    this.#hover(cell && this.#unit(cell).position);
    this.#paint();
  }

  #unit = ([row]: Cell) => this.#shown!.units[this.#order[row]];

  #choose(cell: Cell | null): void {
    if (!cell) return;
    this.#cursor = cell;
    this.#select(this.#unit(cell).position);
  }

  #select(token: number | null): void {
    if (token !== null) this.#store.set({ token: token === this.#scene.state.token ? null : token });
  }

  #near({ offsetX, offsetY }: MouseEvent): number | null {
    const place = spots(this.#scene, this.#points, this.#scatter.clientWidth),
      far = (point: Point) => Math.hypot(place(point)[0] - offsetX, place(point)[1] - offsetY);
    const best = this.#points.toSorted((a, b) => far(a) - far(b))[0];
    return best && far(best) < 16 ? best.unit.position : null;
  }

  #press(event: KeyboardEvent): boolean {
    const cell = moved(event, this.#cursor, this.#order.length, this.#shown!.effects.windows.length);
    if (cell) {
      const { left, wide } = this.#layout(this.#size[0]),
        box = this.#box,
        [row, column] = (this.#cursor = cell);
      box.scrollTop = Math.max(TOP + HIGH * (row + 1) + 2 - this.#size[1], Math.min(box.scrollTop, HIGH * row));
      box.scrollLeft = Math.max(left + wide * (column + 1) - this.#size[0], Math.min(box.scrollLeft, wide * column));
      this.#point(cell);
    } else if (event.key === "Enter" || event.key === " ") this.#choose(this.#cursor);
    else return false;
    return true;
  }

  #fillTable(): void {
    const shown = this.#shown;
    if (!shown || !this.#details.open) return;
    const {
        effects: { windows, numbers, top },
        units,
        values,
      } = shown,
      one = windows.length < 2;
    const names = Object.keys(numbers).slice(4),
      columns = one ? [...names, "top_token"] : windows.map((each) => `layers ${each}`);
    const rows = this.#order.slice(0, Math.ceil(MOST_CELLS / columns.length)).map((place) => {
      const unit = units[place];
      const cells = one
        ? [...names.map((each) => exact(numbers[each]![unit.row])), visible(top[unit.row])]
        : windows.map((_, window) => exact(values[place * windows.length + window]));
      return h(
        "tr",
        { "data-position": unit.position },
        h("th.mono", { scope: "row" }, `${unit.position} ${label(unitToken(unit, this.#scene.run))}`),
        ...cells.map((text) => h("td", {}, text || "–")),
      );
    });
    const left = units.length - rows.length;
    this.#numbers.replaceChildren(
      h(
        "table",
        {},
        h("caption", {}, `${whatText(this.#scene, shown)}${left ? `; ${left} more in the CSV` : ""}`),
        h("thead", {}, h("tr", {}, ...["unit", ...columns].map((each) => h("th", { scope: "col" }, each)))),
        h("tbody", {}, ...rows),
      ),
    );
  }

  drawing(scene: Scene): Drawing | null {
    const shown = shownEffects(scene);
    if (!shown) return null;
    const found = points(scene, shown),
      order = unitOrder(shown, scene.state.order).slice(0, 300),
      columns = shown.effects.windows.length;
    const high = TOP + HIGH * order.length + 12,
      width = Math.max(900, 202 + 14 * columns);
    const wide = columns > 1 ? Math.min(72, (width - 202) / columns) : width - 202;
    return {
      title,
      width,
      height: 140 + high + (found.length > 1 ? 24 + SCATTER : 0),
      draw: (painter) => {
        const top = heading(painter, LIGHT, title, [caption(scene.run, scene.state, null), whatText(scene, shown)]);
        colourBar(painter, LIGHT, 16, top + 2, scene.state, shown.largest, MEASURES[shown.measure], shown.signed);
        drawUnits(
          part(painter, 16, top + 40, width - 32, high),
          LIGHT,
          scene,
          shown,
          order,
          { left: 150, wide, x: 0, y: 0 },
          null,
        );
        if (found.length < 2) return;
        painter.text(16, top + high + 58, rhoText(scene, shown, found), { colour: LIGHT.muted });
        drawScatter(part(painter, 16, top + high + 64, 520, SCATTER), LIGHT, scene, shown, found);
      },
    };
  }

  lines(scene: Scene): Line[] | null {
    const shown = shownEffects(scene);
    if (!shown) return null;
    const {
      effects: { windows, numbers, rows, top },
      units,
      block,
      measure,
      values,
    } = shown;
    return unitOrder(shown, scene.state.order).flatMap((place) =>
      windows.flatMap((window, column) => {
        const unit = units[place],
          row = rows.get([scene.state.step, block, window, unit.key].join());
        if (row === undefined) return [];
        const [first_layer, last_layer] = window.split("-");
        const others = Object.keys(numbers)
          .slice(4)
          .map((each) => [each, exact(numbers[each]![row])]);
        const more = { first_layer, last_layer, block, ...Object.fromEntries(others), top_token: top[row] };
        return {
          run: scene.run.name,
          metric: measure,
          variant: "",
          more,
          token: unitToken(unit, scene.run),
          value: values[place * windows.length + column],
        };
      }),
    );
  }
}

const title = "Effects on the answer";

const whatText = (scene: Scene, shown: Shown) =>
  effectWords(shown, scene.run, "in these layers").replace(/^./, (letter) => letter.toUpperCase());

/** All about one mask. */
function sentence(
  { run, state }: Scene,
  { effects: { rows, numbers, top }, block, floor }: Shown,
  unit: Shown["units"][number],
  window: string,
): string {
  const row = rows.get([state.step, block, window, unit.key].join()),
    name = `${named(unitToken(unit, run), 24)}, masked ${where(window)}`;
  if (row === undefined) return `${name}: not measured`;
  const said = (text: string, key: string, shown = signed) =>
    numbers[key]?.[row]! > -Infinity ? `, ${text} ${shown(numbers[key]![row])}` : "";
  return `${name}: log-probability ${signed(numbers.logprob![row])}${said("changed by", "logprob_change")}${Math.abs(numbers.logprob_change![row]) < floor ? " (below the noise)" : ""}, rank ${numbers.rank![row]}, likeliest ${visible(top[row])}${said("KL", "kl", number)}${said("contrast changed by", "contrast_change")}${said("interaction", "interaction")}`;
}

const impactText = ({ metric, variant, query }: Scene["state"]) =>
  `largest ${METRICS[metric]} of ${variantName(variant)} in a single layer${query === null ? "" : `, at position ${query}`}`;

function rhoText({ state, run }: Scene, shown: Shown, found: Point[]): string {
  if (found.length < 2) return "";
  const rho = spearman(
    found.map(({ impact }) => impact),
    found.map(({ size }) => size),
  );
  const without = !state.first && run.tokens[0]?.position === 0 ? ", position 0 left out" : "";
  return `Size of the effect ${where(shown.effects.windows[shown.window])} against the ${impactText(state)}: Spearman’s ρ = ${isNaN(rho) ? "not defined" : rho.toFixed(2).replace("-", "−")}, n = ${found.length}${without}.`;
}

interface Layout {
  left: number;
  wide: number;
  /** What is scrolled away. */
  x: number;
  y: number;
}

function drawUnits(
  painter: Painter,
  ink: Ink,
  { run, state, hover }: Scene,
  shown: Shown,
  order: number[],
  { left, wide, x, y }: Layout,
  pointer: Cell | null,
): void {
  const {
      effects: { windows },
      units,
      values,
      largest,
      floor,
      signed: both,
    } = shown,
    small = { size: 11, colour: ink.muted };
  const columns = windows.length,
    bars = columns < 2,
    body = painter.height - TOP,
    end = painter.width - left;
  const palette = both ? "difference" : state.palette;
  const colourOf = (value: number) => colourAt(palette, share(value, largest, state.curve, both));
  const every = Math.ceil(18 / wide);
  const each = (draw: (place: number, top: number, row: number) => void) => {
    for (let row = Math.floor(y / HIGH); row < order.length && row * HIGH - y < body; row++)
      draw(order[row], TOP + row * HIGH - y, row);
  };
  painter.clip(0, TOP, painter.width, body, () =>
    each((place, top) => {
      const unit = units[place],
        colour = unit.position === state.token ? ink.accent : ink.ink;
      painter.text(30, top + 13, cut(painter, label(unitToken(unit, run), 40), left - 34, { size: 12, mono: true }), {
        size: 12,
        mono: true,
        colour,
      });
      painter.text(26, top + 13, String(unit.position), { ...small, align: "right" });
    }),
  );
  painter.clip(left, 0, end, painter.height, () => {
    if (bars) {
      const room = end - 70,
        low = Math.min(0, ...values),
        scale = room / (Math.max(0, ...values) - low || 1),
        zero = left - low * scale;
      painter.text(left, 24, `layers ${windows[0].replace("-", " to ")}`, small);
      each((place, top) => {
        const value = values[place],
          long = Math.max(1, Math.abs(value) * scale);
        const bar = [value < 0 ? zero - long : zero, top + 3, long, HIGH - 6] as const;
        painter.rect(...bar, css(colourOf(value)), ink.faint, 0.5);
        if (Math.abs(value) < floor) painter.hatch(...bar, ink.faint);
        painter.text(painter.width - 4, top + 13, (both ? signed : number)(value), {
          size: 12,
          colour: ink.ink,
          align: "right",
        });
      });
      return;
    }
    windows.forEach((window, column) => {
      const middle = left + (column + 0.5) * wide - x;
      if (column % every === 0)
        window
          .split("-")
          .forEach((layer, line) => painter.text(middle, 12 + 13 * line, layer, { ...small, align: "center" }));
    });
    painter.clip(left, TOP, end, body, () =>
      each((place, top) =>
        windows.forEach((_, column) => {
          const value = values[place * columns + column],
            colour = colourOf(value),
            cell = left + column * wide - x,
            empty = isNaN(value);
          painter.rect(cell, top, wide - 1, HIGH - 1, empty ? ink.line : css(colour));
          if ((!units[place].position && !state.first) || Math.abs(value) < floor)
            painter.hatch(cell, top, wide - 1, HIGH - 1, isLight(colour) ? "#0006" : "#ffffff73");
          else if (wide > 43 && Math.abs(value) > 0.005 * largest)
            painter.text(cell + wide / 2 - 0.5, top + 13, (both ? signed : number)(Number(value.toPrecision(2))), {
              size: 11,
              align: "center",
              colour: isLight(colour) ? "#000" : "#fff",
            });
        }),
      ),
    );
  });
  if (!bars)
    ["from layer", "to layer"].forEach((text, line) =>
      painter.text(left - 5, 12 + 13 * line, text, { ...small, align: "right" }),
    );
  painter.clip(0, TOP - 1, painter.width, body, () =>
    each((place, top, row) => {
      const frame = (colour: string, thick: number) =>
        painter.rect(1, top - 0.5, left + columns * wide - x - 2, HIGH, null, colour, thick);
      if (units[place].positions.includes(state.token!)) frame(ink.accent, 2);
      if (units[place].position === hover.token) frame(ink.ink, 1);
      if (pointer?.[0] === row && !bars)
        painter.rect(left + pointer[1] * wide - x, top, wide - 1, HIGH - 1, null, ink.ink, 2);
    }),
  );
}

const AXIS = { left: 52, bottom: 36, top: 26, right: 48 }; // the title of the upright axis is above it

/** Where a point is drawn. */
function spots(
  { state }: Scene,
  found: Point[],
  width: number,
): (point: Pick<Point, "impact" | "size">) => [x: number, y: number] {
  const [right, top] = [Math.max(...found.map(({ impact }) => impact)), Math.max(...found.map(({ size }) => size))];
  return ({ impact, size }) => [
    AXIS.left + share(impact, right, state.curve) * (width - AXIS.left - AXIS.right),
    SCATTER - AXIS.bottom - share(size, top, state.curve) * (SCATTER - AXIS.bottom - AXIS.top),
  ];
}

function drawScatter(painter: Painter, ink: Ink, scene: Scene, { measure }: Shown, found: Point[]): void {
  const { state, hover, run } = scene,
    place = spots(scene, found, painter.width),
    small = { size: 11, colour: ink.muted };
  const [x, y] = place({ impact: 0, size: 0 }),
    most = (key: "impact" | "size") => Math.max(...found.map((point) => point[key]));
  painter.line([x, AXIS.top, x, y, painter.width - AXIS.right, y], ink.line);
  for (const tick of ticks(most("impact"), 5))
    painter.text(place({ impact: tick, size: 0 })[0], y + 14, number(tick), { ...small, align: "center" });
  for (const tick of ticks(most("size"), 4))
    painter.text(x - 6, place({ impact: 0, size: tick })[1] + 4, number(tick), { ...small, align: "right" });
  painter.text(painter.width - AXIS.right, y + 30, impactText(state), { ...small, align: "right" });
  painter.text(4, 12, `size of the ${MEASURES[measure]}`, small);
  // The strongest are named where there is room.
  const taken: number[][] = found.map((point) => [...place(point), 0]);
  for (const [nth, point] of found.toSorted((a, b) => b.size - a.size).entries()) {
    const [px, py] = place(point),
      { position } = point.unit,
      chosen = position === state.token,
      over = position === hover.token;
    painter.circle(px, py, chosen || over ? 5 : 3.5, chosen ? ink.accent : over ? ink.ink : ink.muted);
    const text = label(unitToken(point.unit, run), 14),
      wide = painter.measure(text, { size: 11, mono: true });
    const free = (at: number) =>
      at > x &&
      at + wide < painter.width &&
      !taken.some(([a, b, w]) => at - 3 < a + w && a < at + wide && Math.abs(b - py) < 11);
    const side = [px + 8, px - 8 - wide].find(free) ?? NaN;
    if (!chosen && !over && (nth > 15 || py > y - 14 || isNaN(side))) continue;
    const from = side || px + 8;
    taken.push([from, py, wide]);
    painter.text(from, py + 4, text, { size: 11, mono: true, colour: chosen ? ink.accent : ink.ink });
  }
}
