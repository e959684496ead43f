/** Effects on the answer: units by the layers, or heads, in which they were masked, or a list with bars; and beside the impact. */

import { h } from "../core/dom.ts";
import {
  CHANGES,
  effectWords,
  layersOf,
  kindOf,
  maskText,
  MEASURES,
  readersOf,
  shownEffects,
  STRONGEST,
  unitToken,
  WHOLE,
  type Shown,
} from "../core/effects.ts";
import type { Line } from "../core/export.ts";
import { LIGHT, type Ink } from "../core/ink.ts";
import { CanvasPainter, part, type Drawing, type Painter } from "../core/painter.ts";
import { isNoise, type Scene } from "../core/scene.ts";
import { picked } from "../core/select.ts";
import type { State } from "../core/state.ts";
import type { Scenes } from "../core/store.ts";
import { exact, label, number, visible } from "../core/tokens.ts";
import { capital } from "../core/words.ts";
import { partsOf } from "../data/effects.ts";
import { HIGH, LAYER, OUTCOME, paint, TOP } from "./effects-paint.ts";
import { arranged, isByHead, valueAt, windowAt, windowOf, type Found } from "./effects-rows.ts";
import { drawScatter, ENOUGH, nearest, pointsOf, rhoText, SCATTER } from "./effects-scatter.ts";
import { below, caption, colourBar, ends, heading } from "./figure.ts";
import { laidOut, type Cell, type Layout } from "./matrix-paint.ts";
import { MatrixView, type NumbersTable, type Words } from "./matrix.ts";

const TALLEST = TOP + 60 * HIGH, // 60 rows need no scrolling
  MOST_ROWS = 300, // of a drawing
  ROOMY = 640; // from this width on there is room for what becomes of the answer
const CHOICES = {
  effect: "show",
  answer: "on",
  block: "hidden from",
  mask: "one value from",
  order: "sorted by",
};
const title = "Effects on the answer";

export class EffectsView extends MatrixView<Found> {
  readonly element: HTMLElement;
  #selects = {} as Record<keyof typeof CHOICES, HTMLSelectElement>;
  #rho = h("p.matrix__what");
  #fold = h("button.quiet effects__fold", { onclick: () => (this.#shows.all = !this.#shows.all) });
  readonly #shows = this.watched({ all: false, toggled: [] as string[] }); // of units that change nothing, of parts
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
    return shown && this.#found(shown, scene.state);
  }

  #last: { of: unknown[]; found: Found } | null = null; // asked for by every part, the same each time

  #found(shown: Shown, { order }: State): Found {
    const { all, toggled } = this.#shows,
      of = [shown, order, all, toggled];
    if (!this.#last?.of.every((each, place) => each === of[place])) {
      const isOpen = (key: string, changes: boolean) => toggled.includes(key) !== changes;
      this.#last = { of, found: arranged(shown, { order, all, isOpen }) };
    }
    return this.#last!.found;
  }

  protected sizeOf({ rows, columns }: Found) {
    return { rows: rows.length, columns: columns.length };
  }

  protected explain(scene: Scene, found: Found): Words {
    const { shown, folded } = found,
      { effects, measure } = shown;
    this.#fillAll(scene, shown);
    this.#fold.hidden = !folded && !this.#shows.all;
    this.#fold.textContent = this.#shows.all
      ? `Fold ${kindOf(shown)}s that change p by less than ${CHANGES}`
      : `${folded} other${folded === 1 ? " changes" : "s change"} p by less than ${CHANGES}`;
    const points = pointsOf(scene, shown);
    this.#rho.textContent = rhoText(scene, shown, points);
    this.#scatter.setAttribute("aria-label", this.#rho.textContent);
    this.#scatter.hidden = points.length < ENOUGH;
    const [low, high] = ends(shown.largest, shown.signed);
    const below = shown.values.some((value) => isNoise(value, shown.floor));
    const parts = shown.nested.some(({ parts }) => parts.length);
    const notes = [
      shown.signed && "below 0 the mask costs the answer",
      below && `hatched: below the noise ${number(shown.floor)}`,
      parts && "a click on the name of a unit that was split, marked ▸, shows its parts",
      shown.hidesSplit && "larger units, which were split, are shown only with the manifest",
    ];
    const keys = `Arrow keys move, Enter selects${parts ? ", Shift and Enter shows or hides parts" : ""}.`;
    return {
      what: shown.units.length
        ? `${whatText(scene, shown)}${scene.runs.length > 1 ? `, of ${scene.run.name} alone` : ""}.`
        : `Not measured at step ${scene.state.step + 1}.`,
      scale: { low, high, signed: shown.signed, notes: [notes.filter(Boolean).join("; ")] },
      label: `${shown.units.length} ${kindOf(shown)}s by ${effects.windows.length} ${isByHead(found) ? "heads" : "ranges of layers"}, ${MEASURES[measure]}. ${keys}`,
    };
  }

  #fillAll({ state }: Scene, { effects, measures, measure, block, step, window }: Shown): void {
    const whole = [
      ["step", "this step's token"],
      ["whole", "the whole answer"],
    ];
    const orders = [
      ["strength", "strength"],
      ["position", "position"],
    ];
    const layers = effects.windows.map((each) => [each, layersOf(each)]);
    const name = (each: string) => [each, readersOf(each)];
    const choose = (key: keyof typeof CHOICES, options: string[][], value: string) => this.#fill(key, options, value);
    choose(
      "effect",
      measures.map((each) => [each, MEASURES[each]]),
      measure,
    );
    choose("answer", effects.steps.includes(WHOLE) ? whole : [], step === WHOLE ? "whole" : "step");
    choose("block", effects.blocks.map(name), block);
    const strongest = [STRONGEST, `strongest ${partsOf(effects.windows[0]).length > 2 ? "head" : "layers"}`];
    choose("mask", layers.length > 1 ? [strongest, ...layers] : [], effects.windows[window] ?? STRONGEST);
    choose("order", orders, state.order === "position" ? "position" : "strength");
  }

  #fill(key: keyof typeof CHOICES, options: string[][], value: string): void {
    const select = this.#selects[key];
    select.replaceChildren(...options.map(([each, name]) => h("option", { value: each }, name)));
    select.value = value;
    select.parentElement!.hidden = options.length < 2;
  }

  protected layOut(_: Scene, found: Found, width: number): Layout {
    const { columns } = this.sizeOf(found);
    const left = Math.min(namesWide(found), width * (kindOf(found.shown) === "route" ? 0.42 : 0.32)),
      room = width - left - 2 - (width >= ROOMY ? OUTCOME : 0);
    const wide = columns > 1 ? Math.max(13, Math.min(84, room / columns)) : room;
    const layout = laidOut({ left, top: TOP, wide, high: HIGH }, this.sizeOf(found));
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

  protected say(scene: Scene, found: Found, pointer: Cell | null): string {
    const { shown } = found,
      { hover, state } = scene,
      wanted = hover.token ?? state.token;
    const unit = pointer
      ? shown.units[found.rows[pointer[0]].unit]
      : shown.units.find(({ position, level }) => position === wanted && level === deepest(shown, position));
    const window = pointer
      ? (shown.effects.windows[windowAt(found, pointer[0], pointer[1])] ?? windowOf(found, pointer[0]))
      : unit?.strongest;
    return unit
      ? maskText(scene, shown, unit, window ?? unit.strongest)
      : "Point at a cell for its numbers, click to select the token.";
  }

  /** The name of a unit counts for its first layers, unless it has parts to be shown. */
  protected override cellAt([row, column]: Cell): Cell | null {
    const { scene } = this.store;
    const splits = row >= 0 && column < 0 && scene && this.find(scene)?.rows[row]?.open !== null;
    return row < 0 ? null : splits ? [row, column] : [row, Math.max(0, column)];
  }

  protected hovered(_: Scene, { shown, rows }: Found, [row]: Cell) {
    return { token: shown.units[rows[row].unit].position };
  }

  /** The token; of the name of a unit that was split, or with `more`, its parts are shown or hidden instead. */
  protected chosen({ state }: Scene, { shown, rows }: Found, [row, column]: Cell, more: boolean): Partial<State> {
    const { unit, open, layer } = rows[row],
      { position, key } = shown.units[unit];
    if (open !== null && (more || column < 0)) {
      const { toggled } = this.#shows;
      this.#shows.toggled = toggled.includes(key) ? toggled.filter((each) => each !== key) : [...toggled, key];
      return {};
    }
    const isOther = layer !== null && (state.token !== position || state.layer !== layer);
    return isOther && !more ? { token: position, layer } : picked(state, position, more);
  }

  #near({ offsetX, offsetY }: MouseEvent): number | null {
    const { scene } = this.store,
      found = scene && this.find(scene);
    return found && nearest(scene, found.shown, this.#scatter.clientWidth, offsetX, offsetY);
  }

  /** Of all units, also those that are folded or parts of others. */
  protected table(scene: Scene, { shown }: Found): NumbersTable {
    const all = allUnits(shown, scene.state.order);
    const { effects, units } = shown,
      one = all.columns.length < 2 && !isByHead(all);
    const names = Object.keys(effects.numbers).slice(4);
    return {
      caption: (left) => `${whatText(scene, shown)}${left ? `; ${left} more in the CSV` : ""}`,
      corner: isByHead(all) ? `${kindOf(shown)} and layer` : kindOf(shown),
      columns: one ? [...names, "top_token"] : all.columns.map(({ name }) => name),
      rows: all.rows.length,
      ofTokens: true,
      row: (row) => {
        const { unit: at, layer, depth } = all.rows[row],
          unit = units[at];
        const cells = one
          ? [...names.map((each) => exact(effects.numbers[each]![unit.row])), visible(effects.top[unit.row])]
          : all.columns.map((_, column) => exact(valueAt(all, row, column)));
        const place = unit.route ? "" : `${"· ".repeat(depth)}${unit.position} `;
        const name = place + label(unitToken(unit, scene.run));
        return {
          name: layer === null ? name : `${name}, layer ${layer}`,
          mark: { "data-position": unit.position, ...(layer !== null && { "data-layer": layer }) },
          cells,
        };
      },
    };
  }

  drawing(scene: Scene): Drawing | null {
    const shown = shownEffects(scene);
    if (!shown) return null;
    const points = pointsOf(scene, shown),
      all = this.#found(shown, scene.state);
    const found = { ...all, rows: all.rows.slice(0, MOST_ROWS) },
      columns = found.columns.length,
      left = namesWide(found) - 20;
    const high = TOP + HIGH * found.rows.length + 12,
      width = Math.max(900, left + 52 + OUTCOME + 14 * columns);
    const room = width - left - 52 - OUTCOME,
      wide = columns > 1 ? Math.min(84, room / columns) : room;
    const lines = [...caption(scene.run, scene, null), whatText(scene, shown)];
    const draw = (painter: Painter) => {
      const top = heading(painter, LIGHT, title, lines);
      colourBar(painter, LIGHT, 16, top + 2, scene.state, shown.largest, MEASURES[shown.measure], shown.signed);
      const body = part(painter, 16, top + 40, width - 32, high);
      paint(body, LIGHT, scene, found, laidOut({ left, top: TOP, wide, high: HIGH }, this.sizeOf(found)), null);
      if (points.length < ENOUGH) return;
      painter.text(16, top + high + 58, rhoText(scene, shown, points), { colour: LIGHT.muted });
      drawScatter(part(painter, 16, top + high + 64, 520, SCATTER), LIGHT, scene, shown);
    };
    return { title, width, height: below(lines) + 56 + high + (points.length < ENOUGH ? 0 : 24 + SCATTER), draw };
  }

  lines(scene: Scene): Line[] | null {
    const shown = shownEffects(scene);
    if (!shown) return null;
    const { effects, units, block, step, measure, values } = shown,
      { windows, numbers, rows, top } = effects;
    const places = [...new Set(allUnits(shown, scene.state.order).rows.map(({ unit }) => unit))];
    return places.flatMap((place) =>
      windows.flatMap((window, column) => {
        const unit = units[place],
          row = rows.get([step, block, window, unit.key].join());
        if (row === undefined) return [];
        const [first_layer, last_layer] = partsOf(window).map(String);
        const others = Object.keys(numbers)
          .slice(4)
          .map((each) => [each, exact(numbers[each]![row])]);
        const { route } = unit, // as in the table
          readers = route?.block ?? block;
        const more = {
          generation_step: step,
          first_layer,
          last_layer,
          block: readers,
          ...Object.fromEntries(others),
          top_token: top[row],
        };
        const value = values[place * windows.length + column];
        const token = unitToken(route ? { ...unit, label: route.source.name } : unit, scene.run);
        return { run: scene.run.name, metric: measure, variant: "", more, token, value };
      }),
    );
  }
}

/** Every unit, whatever it changes, and all parts. */
const allUnits = (shown: Shown, order: string) => arranged(shown, { order, all: true, isOpen: () => true });

/** Pixels for the names of rows. */
function namesWide(found: Found): number {
  const { shown, rows } = found;
  if (kindOf(shown) === "unit") return isByHead(found) || rows.some(({ open }) => open !== null) ? 230 : 170;
  const longest = Math.max(...shown.units.map((unit) => unit.label.length));
  return Math.min(360, 7.4 * longest + 28 + (isByHead(found) ? LAYER : 0));
}

/** Of the units that begin at a position, the level of the smallest one. */
const deepest = ({ units }: Shown, position: number) =>
  Math.max(...units.filter((unit) => unit.position === position).map(({ level }) => level));

const whatText = (scene: Scene, shown: Shown) => capital(effectWords(shown, scene.run, "in these layers"));
