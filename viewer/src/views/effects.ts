/** Effects on the answer: units by the layers in which they were masked, or a list with bars; and beside the impact. */

import { isFirst } from "../core/aggregate.ts";
import { colourAt, css, paletteOf, share } from "../core/colour.ts";
import { h } from "../core/dom.ts";
import {
  changes,
  CHANGES,
  effectOn,
  effectWords,
  layersOf,
  MEASURES,
  readersOf,
  shownEffects,
  STRONGEST,
  unitOrder,
  unitToken,
  WHOLE,
  where,
  type Shown,
} from "../core/effects.ts";
import type { Line } from "../core/export.ts";
import { LIGHT, type Ink } from "../core/ink.ts";
import { CanvasPainter, part, type Drawing, type Painter } from "../core/painter.ts";
import { isNoise, type Scene } from "../core/scene.ts";
import { picked } from "../core/select.ts";
import type { State } from "../core/state.ts";
import type { Scenes } from "../core/store.ts";
import { exact, label, named, number, signed, visible } from "../core/tokens.ts";
import { capital, percent } from "../core/words.ts";
import { partsOf } from "../data/effects.ts";
import { drawScatter, ENOUGH, nearest, pointsOf, rhoText, SCATTER } from "./effects-scatter.ts";
import { caption, colourBar, cut, ends, heading } from "./figure.ts";
import { boxOf, eachColumn, eachRow, laidOut, paintCells, type Cell, type Layout } from "./matrix-paint.ts";
import { MatrixView, type NumbersTable, type Words } from "./matrix.ts";

const HIGH = 20,
  TOP = 30,
  TALLEST = TOP + 60 * HIGH, // 60 rows need no scrolling
  OUTCOME = 210, // pixels for what becomes of the answer
  ROOMY = 640; // from this width on there is room for it
const CHOICES = {
  effect: "show",
  answer: "on",
  block: "hidden from",
  mask: "one value for a unit:",
  order: "sorted by",
};
const title = "Effects on the answer";

/** What is shown, and the places of its units in the order of the screen. */
interface Found {
  shown: Shown;
  order: number[];
  /** Units left out below, since they change nothing. */
  folded: number;
}

export class EffectsView extends MatrixView<Found> {
  readonly element: HTMLElement;
  #selects = {} as Record<keyof typeof CHOICES, HTMLSelectElement>;
  #rho = h("p.matrix__what");
  #fold = h("button.quiet effects__fold", { onclick: () => (this.#unfolded.all = !this.#unfolded.all) });
  readonly #unfolded = this.watched({ all: false });
  #scatter = h("canvas", { role: "img" });

  constructor(store: Scenes) {
    super(store, {
      role: "matrix of units and layers",
      numbers: "Exact effects",
      box: "effects__box",
      scrolls: true,
      tallest: TALLEST,
    });
    const controls = (Object.keys(CHOICES) as (keyof typeof CHOICES)[]).map((key) => {
      const select = (this.#selects[key] = h("select", { onchange: () => store.set({ [key]: select.value }) }));
      return h("label", {}, `${CHOICES[key]} `, select);
    });
    this.element = h(
      "section.matrix effects",
      { "aria-label": title, hidden: true },
      h("div.matrix__head", {}, h("h2", {}, title), h("div.matrix__controls", {}, ...controls)),
      this.what,
      h("div.matrix__plot", {}, this.box),
      ...[this.#fold, this.legend, this.readout, this.#rho, h("div.matrix__plot", {}, this.#scatter), this.details],
    );
    this.#scatter.onpointerleave = () => store.hover();
    this.#scatter.onpointermove = (event) => store.hover({ token: this.#near(event) });
    this.#scatter.onclick = (event) => {
      const token = this.#near(event);
      const { state } = store.scene!;
      // What the page has selected by itself is not taken away.
      const chosen = store.state.token === null ? null : state.token;
      if (token !== null) store.set(picked({ ...state, token: chosen }, token, event.shiftKey));
    };
  }

  protected find(scene: Scene): Found | null {
    const shown = shownEffects(scene);
    return shown && ordered(shown, scene.state.order, this.#unfolded.all);
  }

  protected sizeOf({ shown, order }: Found) {
    return { rows: order.length, columns: shown.effects.windows.length };
  }

  protected explain(scene: Scene, { shown, folded }: Found): Words {
    const { state } = scene,
      { effects, measures, measure, block, step, window } = shown;
    const layers = effects.windows.map((each) => [each, layersOf(each)]);
    this.#fill(
      "effect",
      measures.map((each) => [each, MEASURES[each]]),
      measure,
    );
    this.#fill(
      "answer",
      effects.steps.includes(WHOLE)
        ? [
            ["step", "this step's token"],
            ["whole", "the whole answer"],
          ]
        : [],
      step === WHOLE ? "whole" : "step",
    );
    this.#fill(
      "block",
      effects.blocks.map((each) => [each, readersOf(each)]),
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
        ["strength", "strength"],
        ["position", "position"],
      ],
      state.order === "position" ? "position" : "strength",
    );
    this.#fold.hidden = !folded && !this.#unfolded.all;
    this.#fold.textContent = this.#unfolded.all
      ? `Fold units that change p by less than ${CHANGES}`
      : `${folded} other${folded === 1 ? " changes" : "s change"} p by less than ${CHANGES}`;
    const points = pointsOf(scene, shown);
    this.#rho.textContent = rhoText(scene, shown, points);
    this.#scatter.setAttribute("aria-label", this.#rho.textContent);
    this.#scatter.hidden = points.length < ENOUGH;
    const [low, high] = ends(shown.largest, shown.signed);
    const below = shown.values.some((value) => isNoise(value, shown.floor));
    const notes = [
      shown.signed && "below 0 the mask costs the answer",
      below && `hatched: below the noise ${number(shown.floor)}`,
    ];
    return {
      what: shown.units.length
        ? `${whatText(scene, shown)}${scene.runs.length > 1 ? `, of ${scene.run.name} alone` : ""}.`
        : `Not measured at step ${state.step + 1}.`,
      scale: { low, high, signed: shown.signed, notes: [notes.filter(Boolean).join("; ")] },
      label: `${shown.units.length} units by ${layers.length} ranges of layers, ${MEASURES[measure]}. Arrow keys move, Enter selects.`,
    };
  }

  #fill(key: keyof typeof CHOICES, options: string[][], value: string): void {
    const select = this.#selects[key];
    select.replaceChildren(...options.map(([each, name]) => h("option", { value: each }, name)));
    select.value = value;
    select.parentElement!.hidden = options.length < 2;
  }

  protected layOut(_: Scene, found: Found, width: number): Layout {
    const size = this.sizeOf(found),
      { columns } = size;
    const left = Math.min(170, width * 0.32),
      room = width - left - 2 - (width >= ROOMY ? OUTCOME : 0);
    const wide = columns > 1 ? Math.max(13, Math.min(84, room / columns)) : room;
    const layout = laidOut({ left, top: TOP, wide, high: HIGH }, size);
    return { ...layout, size: [Math.max(width, layout.size[0]), layout.size[1]] };
  }

  protected paint(
    painter: Painter,
    colours: Ink,
    scene: Scene,
    found: Found,
    layout: Layout,
    pointer: Cell | null,
  ): void {
    paint(painter, colours, scene, found, layout, pointer);
    const width = Math.min(this.width, 520);
    this.#scatter.style.width = `${width}px`;
    this.#scatter.style.height = `${SCATTER}px`;
    if (this.#scatter.hidden) return;
    drawScatter(new CanvasPainter(this.#scatter, width, SCATTER, devicePixelRatio), colours, scene, found.shown);
  }

  protected say(scene: Scene, { shown, order }: Found, pointer: Cell | null): string {
    const { hover, state } = scene,
      wanted = hover.token ?? state.token;
    const unit =
      shown.units[pointer ? order[pointer[0]] : shown.units.findIndex(({ position }) => position === wanted)];
    const window = pointer ? shown.effects.windows[pointer[1]] : unit?.strongest;
    return unit ? sentence(scene, shown, unit, window) : "Point at a cell for its numbers, click to select the token.";
  }

  /** The name of a unit counts for its first layers. */
  protected override cellAt([row, column]: Cell): Cell | null {
    return row < 0 ? null : [row, Math.max(0, column)];
  }

  protected hovered(_: Scene, { shown, order }: Found, [row]: Cell) {
    return { token: shown.units[order[row]].position };
  }

  protected chosen({ state }: Scene, { shown, order }: Found, [row]: Cell, more: boolean): Partial<State> {
    return picked(state, shown.units[order[row]].position, more);
  }

  #near({ offsetX, offsetY }: MouseEvent): number | null {
    const { scene } = this.store,
      found = scene && this.find(scene);
    return found && nearest(scene, found.shown, this.#scatter.clientWidth, offsetX, offsetY);
  }

  /** Of all units, also those that are folded. */
  protected table(scene: Scene, { shown }: Found): NumbersTable {
    const { order } = ordered(shown, scene.state.order, true);
    const {
        effects: { windows, numbers, top },
        units,
        values,
      } = shown,
      one = windows.length < 2;
    const names = Object.keys(numbers).slice(4);
    return {
      caption: (left) => `${whatText(scene, shown)}${left ? `; ${left} more in the CSV` : ""}`,
      corner: "unit",
      columns: one ? [...names, "top_token"] : windows.map(layersOf),
      rows: order.length,
      ofTokens: true,
      row: (row) => {
        const unit = units[order[row]];
        const all = () => [...names.map((each) => exact(numbers[each]![unit.row])), visible(top[unit.row])];
        return {
          name: `${unit.position} ${label(unitToken(unit, scene.run))}`,
          mark: { "data-position": unit.position },
          cells: one ? all() : windows.map((_, window) => exact(values[order[row] * windows.length + window])),
        };
      },
    };
  }

  drawing(scene: Scene): Drawing | null {
    const shown = shownEffects(scene);
    if (!shown) return null;
    const points = pointsOf(scene, shown),
      columns = shown.effects.windows.length;
    const all = ordered(shown, scene.state.order, this.#unfolded.all);
    const found = { ...all, order: all.order.slice(0, 300) };
    const high = TOP + HIGH * found.order.length + 12,
      width = Math.max(900, 202 + OUTCOME + 14 * columns);
    const wide = columns > 1 ? Math.min(84, (width - 202 - OUTCOME) / columns) : width - 202 - OUTCOME;
    const draw = (painter: Painter) => {
      const top = heading(painter, LIGHT, title, [caption(scene.run, scene.state, null), whatText(scene, shown)]);
      colourBar(painter, LIGHT, 16, top + 2, scene.state, shown.largest, MEASURES[shown.measure], shown.signed);
      const body = part(painter, 16, top + 40, width - 32, high);
      const layout = laidOut({ left: 150, top: TOP, wide, high: HIGH }, this.sizeOf(found));
      paint(body, LIGHT, scene, found, layout, null);
      if (points.length < ENOUGH) return;
      painter.text(16, top + high + 58, rhoText(scene, shown, points), { colour: LIGHT.muted });
      drawScatter(part(painter, 16, top + high + 64, 520, SCATTER), LIGHT, scene, shown);
    };
    return { title, width, height: 140 + high + (points.length < ENOUGH ? 0 : 24 + SCATTER), draw };
  }

  lines(scene: Scene): Line[] | null {
    const shown = shownEffects(scene);
    if (!shown) return null;
    const found = ordered(shown, scene.state.order, true);
    const {
      effects: { windows, numbers, rows, top },
      units,
      block,
      step,
      measure,
      values,
    } = found.shown;
    return found.order.flatMap((place) =>
      windows.flatMap((window, column) => {
        const unit = units[place],
          row = rows.get([step, block, window, unit.key].join());
        if (row === undefined) return [];
        const [first_layer, last_layer] = partsOf(window).map(String);
        const others = Object.keys(numbers)
          .slice(4)
          .map((each) => [each, exact(numbers[each]![row])]);
        const more = { first_layer, last_layer, block, ...Object.fromEntries(others), top_token: top[row] };
        const value = values[place * windows.length + column];
        return { run: scene.run.name, metric: measure, variant: "", more, token: unitToken(unit, scene.run), value };
      }),
    );
  }
}

/** The units that are shown, in their order; those that change nothing are left out, unless all would be. */
function ordered(shown: Shown, order: string, all: boolean): Found {
  const places = unitOrder(shown, order);
  const fold = !all && (shown.measure === "logprob_change" || shown.measure === "kl");
  const kept = fold ? places.filter((place) => changes(shown, shown.units[place])) : places;
  return kept.length
    ? { shown, order: kept, folded: places.length - kept.length }
    : { shown, order: places, folded: 0 };
}

const whatText = (scene: Scene, shown: Shown) => capital(effectWords(shown, scene.run, "in these layers"));

/** All about one mask. */
function sentence(
  { run }: Scene,
  { effects: { rows, numbers, top }, block, step, floor }: Shown,
  unit: Shown["units"][number],
  window: string,
): string {
  const row = rows.get([step, block, window, unit.key].join());
  const name = `${named(unitToken(unit, run), 24)}, masked ${where(window)}`;
  if (row === undefined) return `${name}: not measured`;
  const said = (text: string, key: string, shown = signed) =>
    numbers[key]?.[row]! > -Infinity ? `, ${text} ${shown(numbers[key]![row])}` : "";
  const below = isNoise(numbers.logprob_change![row], floor) ? " (below the noise)" : "";
  const changed = `log-probability ${signed(numbers.logprob![row])}${said("changed by", "logprob_change")}${below}`;
  const others = `${said("KL", "kl", number)}${said("contrast changed by", "contrast_change")}${said("interaction", "interaction")}`;
  return `${name}: ${changed}, rank ${numbers.rank![row]}, likeliest ${visible(top[row])}${others}`;
}

// --- drawing ----------------------------------------------------------------------------------------------
function paint(painter: Painter, ink: Ink, scene: Scene, found: Found, layout: Layout, pointer: Cell | null): void {
  const { run, state } = scene,
    { shown, order } = found,
    { windows } = shown.effects;
  eachRow(painter, layout, order.length, (row, y) => {
    const unit = shown.units[order[row]],
      colour = unit.position === state.token ? ink.accent : ink.ink;
    const style = { size: 12, mono: true };
    painter.text(30, y + 14, cut(painter, label(unitToken(unit, run), 40), layout.left - 34, style), {
      ...style,
      colour,
    });
    painter.text(26, y + 14, String(unit.position), { size: 11, colour: ink.muted, align: "right" });
  });
  paintOutcomes(painter, ink, found, layout);
  if (windows.length < 2) paintBars(painter, ink, scene, found, layout);
  else paintWindows(painter, ink, scene, found, layout);
  const box = (row: number, column: number) =>
    boxOf(layout, { rows: order.length, columns: windows.length }, [row, column]);
  eachRow(painter, layout, order.length, (row) => {
    const unit = shown.units[order[row]],
      [x, y, width, height] = box(row, -1);
    const frame = (colour: string, thick: number) =>
      painter.rect(1, y - 0.5, x + width - 2, height, null, colour, thick);
    if (unit.positions.includes(state.token!)) frame(ink.accent, 2);
    if (unit.position === scene.hover.token) frame(ink.ink, 1);
    if (pointer?.[0] !== row || windows.length < 2) return;
    const [left, top, wide, high] = box(row, pointer[1]);
    painter.rect(left, top, wide - 1, high - 1, null, ink.ink, 2);
  });
}

/** Right of each row: the answer's probability without and with the mask that stands for the unit, and what is likeliest then. */
function paintOutcomes(painter: Painter, ink: Ink, { shown, order }: Found, layout: Layout): void {
  const x = layout.left + layout.wide * shown.effects.windows.length + 12,
    small = { size: 11, colour: ink.muted };
  if (painter.width - x < OUTCOME - 20 || shown.measure === "interaction") return;
  painter.text(x, 25, "p of the answer", small);
  painter.text(x + 128, 25, "then", small);
  eachRow(painter, layout, order.length, (row, y) => {
    const unit = shown.units[order[row]],
      found = effectOn(shown, unit.key, unit.strongest);
    if (!found) return;
    const falls = `${percent(found.before)} → ${percent(found.after)}`;
    painter.text(x, y + 14, cut(painter, falls, 122, { size: 11 }), { size: 11, colour: ink.ink });
    const then = visible(found.top).replace(/^␣(?=.)/, "");
    const style = { size: 12, mono: true };
    painter.text(x + 128, y + 14, cut(painter, then, OUTCOME - 140, style), { ...style, colour: ink.ink });
  });
}

/** The two lines over a column: layers, or layer and head. */
const namesOf = (window: string) => {
  const [first, last, head] = partsOf(window);
  return [first, head ?? last];
};

function paintWindows(painter: Painter, ink: Ink, { state }: Scene, { shown, order }: Found, layout: Layout): void {
  const {
      effects: { windows },
      units,
      values,
      largest,
      floor,
      signed: both,
    } = shown,
    small = { size: 11, colour: ink.muted };
  const { curve, first, least } = state,
    palette = paletteOf(state, both),
    columns = windows.length;
  const cells = {
    rows: order.length,
    columns,
    value: (row: number, column: number) => values[order[row] * columns + column],
    colour: (value: number) => colourAt(palette, share(value, largest, { curve, least }, both)),
    empty: ink.line,
    hatched: (value: number, row: number) =>
      (!first && isFirst({ ...units[order[row]], members: units[order[row]].positions })) || isNoise(value, floor),
    gap: { free: 1 },
    number: {
      from: 43,
      size: 11,
      text: (value: number) =>
        Math.abs(value) > 0.005 * largest ? (both ? signed : number)(Number(value.toPrecision(2))) : null,
    },
  };
  paintCells(painter, ink, layout, cells, () => {});
  const every = Math.ceil(18 / layout.wide);
  eachColumn(painter, layout, columns, (column, middle) => {
    if (column % every) return;
    namesOf(windows[column]).forEach((name, line) =>
      painter.text(middle, 12 + 13 * line, String(name), { ...small, align: "center" }),
    );
  });
  (partsOf(windows[0]).length > 2 ? ["layer", "head"] : ["from layer", "to layer"]).forEach((text, line) =>
    painter.text(layout.left - 5, 12 + 13 * line, text, { ...small, align: "right" }),
  );
}

function paintBars(painter: Painter, ink: Ink, { state }: Scene, { shown, order }: Found, layout: Layout): void {
  const {
      effects: { windows },
      values,
      largest,
      floor,
      signed: both,
    } = shown,
    { left } = layout;
  const room = layout.wide - 60,
    low = Math.min(0, ...values),
    scale = room / (Math.max(0, ...values) - low || 1);
  const zero = left - low * scale,
    palette = paletteOf(state, both);
  painter.text(left, 24, layersOf(windows[0]), { size: 11, colour: ink.muted });
  eachRow(painter, layout, order.length, (row, y) => {
    const value = values[order[row]],
      long = Math.max(1, Math.abs(value) * scale);
    const bar = [value < 0 ? zero - long : zero, y + 3, long, HIGH - 6] as const;
    painter.rect(
      ...bar,
      css(colourAt(palette, share(value, largest, { curve: state.curve, least: state.least }, both))),
      ink.faint,
      0.5,
    );
    if (isNoise(value, floor)) painter.hatch(...bar, ink.faint);
    painter.text(left + layout.wide - 2, y + 14, (both ? signed : number)(value), {
      size: 12,
      colour: ink.ink,
      align: "right",
    });
  });
}
