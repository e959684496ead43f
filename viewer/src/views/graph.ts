/**
 * A graph on the page: what it shows in a sentence, a threshold, lines on a canvas, the chosen line's heads, and all lines as a
 * table. The views of reads and of routes say what columns and lines are, and what a click on a line does.
 */

import "./graph.css";

import { colourAt, css, paletteOf, share } from "../core/colour.ts";
import { h } from "../core/dom.ts";
import type { Line as Exported } from "../core/export.ts";
import { bySize, type Graph, type Line } from "../core/graph.ts";
import { ink, LIGHT } from "../core/ink.ts";
import { CanvasPainter, part, type Drawing, type Painter } from "../core/painter.ts";
import type { Scene, View } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import type { Scenes } from "../core/store.ts";
import { exact, label, number, signed, unspaced } from "../core/tokens.ts";
import { Drawn } from "../core/track.ts";
import { variantName } from "../core/words.ts";
import type { TokenInfo } from "../data/types.ts";
import { below, caption, heading, wrapped } from "./figure.ts";
import { lineAt, paintGraph, placeOf, plan, type Plan } from "./graph-paint.ts";
import { setSlider, slider } from "./slider.ts";

const MOST_HEADS = 8,
  NAMED = 20; // lines that assistive technology is told

export interface GraphOptions {
  title: string;
  /** Of the threshold, and the key of the state that it is. */
  least: string;
  threshold: "edges" | "routes";
  /** Of the table, and its columns. */
  table: string;
  columns: string[];
}

/** Of a head, for a line. */
export interface HeadValue {
  head: string;
  value: number;
}

/** A row of the table; a click on its second cell chooses the line. */
export interface LineRow {
  name: string;
  cells: string[];
  mark: Record<string, string | number>;
}

let made = 0; // sliders need names of their own

export abstract class GraphView<Of, Found extends Graph<Of> & { part: number }> extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  readonly #options: GraphOptions;
  readonly #store: Scenes;
  #what = h("p.matrix__what");
  #how = h("p.matrix__readout");
  #threshold;
  #canvas = h("canvas", { role: "img" });
  #heads = h("dl.graph__heads");
  #ofLine = h("h3");
  #rows = h("tbody");
  #plan: Plan | null = null;
  readonly #own = this.watched({ width: 0, chosen: "", pointed: "" });

  constructor(store: Scenes, options: GraphOptions) {
    super();
    [this.#store, this.#options] = [store, options];
    this.#threshold = slider(`threshold-${made++}`, options.least);
    const { input, label: control } = this.#threshold;
    input.oninput = () => store.set({ [options.threshold]: input.valueAsNumber / 100 });
    input.min = "5";
    const plot = h("div.matrix__plot", {}, this.#canvas);
    const head = h("tr", {}, ...options.columns.map((name) => h("th", { scope: "col" }, name)));
    const table = h("table", {}, h("thead", {}, head), this.#rows);
    this.element = h(
      "section.matrix graph",
      { "aria-label": options.title, hidden: true },
      h("h2", {}, options.title),
      this.#what,
      h("div.sliders", {}, control),
      plot,
      this.#how,
      this.#ofLine,
      this.#heads,
      h("details", {}, h("summary", {}, options.table), h("div.matrix__numbers", {}, table)),
    );
    new ResizeObserver(([{ contentRect }]) => {
      this.#own.width = contentRect.width;
    }).observe(plot);
    this.#listen();
    this.draws(
      (scene) => this.#tell(scene),
      (scene) => this.#list(scene),
      (scene) => this.#paint(scene),
      (scene) => this.#showLine(scene),
    );
  }

  // --- what a view has to say -----------------------------------------------------------------------------
  /** Null: there is nothing to show, and the view is hidden. */
  protected abstract find(scene: Scene): Found | null;
  /** The graph in a sentence; how to read it; and the threshold in words. */
  protected abstract words(scene: Scene, found: Found): { what: string; how: string; least: string };
  protected abstract lineText(scene: Scene, found: Found, line: Line<Of>): string;
  protected abstract row(scene: Scene, found: Found, line: Line<Of>): LineRow;
  /** Of all that there are, the strongest first. */
  protected abstract headsOf(scene: Scene, line: Line<Of>): HeadValue[];
  /** Without a choice. */
  protected abstract first(found: Found): Line<Of> | undefined;
  protected abstract chosen(line: Line<Of>): Partial<State>;
  protected abstract exported(scene: Scene, found: Found, line: Line<Of>): Exported;

  // --- pointer ----------------------------------------------------------------------------------------------
  #listen(): void {
    const under = ({ offsetX, offsetY }: MouseEvent) => {
      const found = this.#store.scene && this.find(this.#store.scene);
      return found && this.#plan ? lineAt(found, this.#plan, offsetX, offsetY) : null;
    };
    const point = (line: Line<Of> | null) => {
      this.#own.pointed = line?.key ?? "";
      this.#canvas.style.cursor = line ? "pointer" : "";
    };
    this.#canvas.onpointermove = (event) => point(under(event));
    this.#canvas.onpointerleave = () => point(null);
    this.#canvas.onclick = (event) => this.#choose(under(event));
  }

  #choose(line: Line<Of> | null): void {
    if (!line) return;
    this.#own.chosen = line.key;
    this.#store.set(this.chosen(line));
  }

  #chosen(found: Found): Line<Of> | null {
    return found.lines.find(({ key }) => key === this.#own.chosen) ?? this.first(found) ?? null;
  }

  // --- what is drawn ----------------------------------------------------------------------------------------
  #tell(scene: Scene): void {
    const found = this.find(scene);
    this.element.hidden = !found;
    if (!found) return;
    const { what, how, least } = this.words(scene, found);
    this.#what.textContent = what;
    this.#how.textContent = how;
    const share = Math.round(100 * found.part);
    const wanted = Math.round(100 * scene.state[this.#options.threshold]);
    setSlider(this.#threshold, 100, wanted, `${share} % ${least}, ${number(found.part * found.largest)}`);
    const lines = found.lines.slice(0, NAMED).map((line) => this.lineText(scene, found, line));
    this.#canvas.setAttribute("aria-label", `${found.lines.length} lines: ${lines.join("; ")}`);
  }

  #list(scene: Scene): void {
    const found = this.find(scene);
    if (!found) return;
    const chosen = this.#chosen(found);
    this.#rows.replaceChildren(
      ...found.lines.map((line) => {
        const { name, cells, mark } = this.row(scene, found, line);
        const choose = (text: string) => h("button.quiet", { onclick: () => this.#choose(line) }, text);
        return h(
          "tr",
          { ...mark, ...(line === chosen && { "data-chosen": "" }) },
          h("th", { scope: "row" }, name),
          ...cells.map((text, i) => h("td", { class: i < 2 ? "mono" : null }, i === 1 ? choose(text) : text)),
        );
      }),
    );
  }

  #paint(scene: Scene): void {
    const found = this.find(scene),
      { width, pointed } = this.#own;
    if (!found || !width) return;
    this.#plan = plan(found, width);
    const { size } = this.#plan;
    Object.assign(this.#canvas.style, { width: `${size[0]}px`, height: `${size[1]}px` });
    const over = found.lines.find(({ key }) => key === pointed) ?? null;
    const painter = new CanvasPainter(this.#canvas, ...size, devicePixelRatio);
    paintGraph(painter, ink(scene.dark), scene, found, this.#plan, this.#chosen(found), over);
  }

  #showLine(scene: Scene): void {
    const found = this.find(scene),
      line = found && this.#chosen(found);
    this.#ofLine.hidden = !line;
    const heads = line ? this.headsOf(scene, line).slice(0, MOST_HEADS) : [];
    this.#heads.hidden = !heads.length;
    if (!line) return;
    this.#ofLine.textContent = `${this.lineText(scene, found, line)}${heads.length ? ", by head" : ""}`;
    const most = Math.abs(heads[0]?.value ?? 0);
    this.#heads.replaceChildren(...heads.flatMap((each) => headBar(scene, each, most, found.signed)));
  }

  drawing(scene: Scene): Drawing | null {
    const found = this.find(scene);
    if (!found) return null;
    const place = plan(found, 1000),
      [width, height] = place.size,
      { title } = this.#options;
    const lines = [...caption(scene.run, scene), ...wrapped(this.words(scene, found).what, width)];
    const draw = (painter: Painter) => {
      const top = heading(painter, LIGHT, title, lines);
      paintGraph(part(painter, 16, top, width, height), LIGHT, scene, found, place, null, null);
    };
    return { title, width: width + 32, height: below(lines) + height + 16, draw };
  }

  /** One for each line of the graph. */
  lines(scene: Scene): Exported[] | null {
    const found = this.find(scene);
    return found && found.lines.map((line) => this.exported(scene, found, line));
  }
}

function headBar({ state }: Scene, { head, value }: HeadValue, most: number, both: boolean): HTMLElement[] {
  const bar = h("i");
  const size = share(Math.abs(value), most, { curve: state.curve });
  bar.style.width = `${100 * size}%`;
  bar.style.background = css(colourAt(paletteOf(state, both), placeOf(value, size, both)));
  return [
    h("dt", {}, variantName(head)),
    h("dd", {}, bar),
    h("dd", { title: exact(value), "data-head": head }, (both ? signed : number)(value)),
  ];
}

/** "cup (10)" */
export const columnText = (token: TokenInfo) => `${unspaced(label(token, 24))} (${token.position})`;

/** Of the lines that end in a column, the strongest first. */
export const endingIn = <Of>({ lines }: Graph<Of>, column: number) =>
  lines.filter(({ to }) => to === column).sort(bySize);
