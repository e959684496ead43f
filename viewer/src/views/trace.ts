/** What was read, traced back from the predicted token: tokens across, layers up. A click on a line shows its heads. */

import "./trace.css";

import { colourAt, css, paletteOf, share } from "../core/colour.ts";
import { h } from "../core/dom.ts";
import type { Line } from "../core/export.ts";
import { ink, LIGHT } from "../core/ink.ts";
import { titleOf } from "../core/metrics.ts";
import { CanvasPainter, part, type Drawing } from "../core/painter.ts";
import type { Scene, View } from "../core/scene.ts";
import type { Store } from "../core/store.ts";
import { exact, label, number } from "../core/tokens.ts";
import { chain, headsOf, trace, type Edge, type Trace } from "../core/trace.ts";
import { Drawn } from "../core/track.ts";
import { predicted, variantName } from "../core/words.ts";
import { plainToken } from "../data/cube.ts";
import type { Run, TokenInfo } from "../data/types.ts";
import { caption, heading } from "./figure.ts";
import { setSlider, slider } from "./slider.ts";
import { edgeAt, paintTrace, plan, type Plan } from "./trace-paint.ts";

const title = "What was read, traced back";
const MOST_HEADS = 8;
const COLUMNS = ["layer", "position", "reads", "value"];

export class TraceView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #what = h("p.matrix__what");
  #how = h("p.matrix__readout");
  #threshold = slider("trace-threshold", "Reads of at least");
  #canvas = h("canvas", { role: "img" });
  #heads = h("dl.trace__heads");
  #ofEdge = h("h3");
  #edges = h("tbody");
  #plan: Plan | null = null;
  readonly #own = this.watched({ width: 0, chosen: "", pointed: "" });

  constructor(store: Store) {
    super();
    const { input, label: control } = this.#threshold;
    input.oninput = () => store.set({ edges: input.valueAsNumber / 100 });
    input.min = "5";
    const plot = h("div.matrix__plot", {}, this.#canvas);
    const head = h("tr", {}, ...COLUMNS.map((name) => h("th", { scope: "col" }, name)));
    const table = h("table", {}, h("thead", {}, head), this.#edges);
    this.element = h(
      "section.matrix trace",
      { "aria-label": title, hidden: true },
      h("h2", {}, title),
      this.#what,
      h("div.sliders", {}, control),
      plot,
      this.#how,
      this.#ofEdge,
      this.#heads,
      h("details", {}, h("summary", {}, "Reads as a table"), h("div.matrix__numbers", {}, table)),
    );
    new ResizeObserver(([{ contentRect }]) => {
      this.#own.width = contentRect.width;
    }).observe(plot);
    const under = ({ offsetX, offsetY }: MouseEvent) => {
      const found = store.scene && trace(store.scene);
      return found && this.#plan ? edgeAt(found, this.#plan, offsetX, offsetY) : null;
    };
    this.#canvas.onpointermove = (event) => this.#point(under(event));
    this.#canvas.onpointerleave = () => this.#point(null);
    this.#canvas.onclick = (event) => this.#choose(store, under(event));
    this.draws(
      (scene) => this.#tell(scene),
      (scene) => this.#list(store, scene),
      (scene) => this.#paint(scene),
      (scene) => this.#showHeads(scene),
    );
  }

  #point(edge: Edge | null): void {
    this.#own.pointed = edge ? keyOf(edge) : "";
    this.#canvas.style.cursor = edge ? "pointer" : "";
  }

  #choose(store: Store, edge: Edge | null): void {
    if (!edge) return;
    this.#own.chosen = keyOf(edge);
    store.set({ token: edge.from.position, layer: edge.layer });
  }

  #tell(scene: Scene): void {
    const { run, state } = scene,
      found = trace(scene);
    this.element.hidden = !found;
    if (!found) return;
    this.#what.textContent = sentence(run, scene, found);
    const least = `${Math.round(100 * found.part)} % of its largest, ${number(found.part * found.largest)}`;
    setSlider(this.#threshold, 100, Math.round(100 * state.edges), least);
    this.#how.textContent =
      `A line: a position reads a token in a layer; thicker, the farther ${titleOf(run, state)} of ${variantName(state.variant)} moves. ` +
      "Only what the predicting position has read is followed further down. Click a line for its heads.";
    const reads = found.edges.map((edge) => readText(run, edge)).slice(0, 20);
    this.#canvas.setAttribute("aria-label", `${found.edges.length} reads: ${reads.join("; ")}`);
  }

  #list(store: Store, scene: Scene): void {
    const found = trace(scene);
    if (!found) return;
    const chosen = this.#chosen(found);
    this.#edges.replaceChildren(
      ...found.edges.map((edge) => {
        const choose = h("button.quiet", { onclick: () => this.#choose(store, edge) }, tokenText(edge.from));
        const mark = { "data-layer": edge.layer, "data-to": edge.to, "data-from": edge.from.position };
        return h(
          "tr",
          { ...mark, ...(edge === chosen && { "data-chosen": "" }) },
          h("th", { scope: "row" }, String(edge.layer)),
          h("td.mono", {}, tokenText(atPosition(scene.run, edge.to))),
          h("td.mono", {}, choose),
          h("td", {}, exact(edge.value)),
        );
      }),
    );
  }

  /** The one that was chosen, or the strongest of the predicting position. */
  #chosen({ edges, start }: Trace): Edge | null {
    const own = edges.filter(({ to }) => to === start).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    return edges.find((edge) => keyOf(edge) === this.#own.chosen) ?? own[0] ?? null;
  }

  #paint(scene: Scene): void {
    const found = trace(scene),
      { width, pointed } = this.#own;
    if (!found || !width) return;
    this.#plan = plan(scene, found, width);
    const { size } = this.#plan;
    Object.assign(this.#canvas.style, { width: `${size[0]}px`, height: `${size[1]}px` });
    const over = found.edges.find((edge) => keyOf(edge) === pointed) ?? null;
    const painter = new CanvasPainter(this.#canvas, ...size, devicePixelRatio);
    paintTrace(painter, ink(scene.dark), scene, found, this.#plan, this.#chosen(found), over);
  }

  #showHeads(scene: Scene): void {
    const { run, state } = scene,
      found = trace(scene),
      edge = found && this.#chosen(found);
    const heads = edge ? headsOf(run, state, edge).slice(0, MOST_HEADS) : [];
    this.#ofEdge.hidden = this.#heads.hidden = !heads.length;
    if (!edge || !heads.length) return;
    this.#ofEdge.textContent = `${readText(run, edge)}, by head`;
    const most = Math.abs(heads[0].value);
    this.#heads.replaceChildren(
      ...heads.flatMap(({ head, value }) => {
        const bar = h("i");
        const size = share(Math.abs(value), most, { curve: state.curve });
        bar.style.width = `${100 * size}%`;
        bar.style.background = css(colourAt(paletteOf(state, false), 0.2 + 0.8 * size));
        return [
          h("dt", {}, variantName(head)),
          h("dd", {}, bar),
          h("dd", { title: exact(value), "data-head": head }, number(value)),
        ];
      }),
    );
  }

  drawing(scene: Scene): Drawing | null {
    const found = trace(scene);
    if (!found) return null;
    const place = plan(scene, found, 1000),
      [width, height] = place.size;
    const draw = (painter: Parameters<Drawing["draw"]>[0]) => {
      const lines = [caption(scene.run, scene.state), sentence(scene.run, scene, found)];
      const top = heading(painter, LIGHT, title, lines);
      paintTrace(part(painter, 16, top, width, height), LIGHT, scene, found, place, null, null);
    };
    return { title, width: width + 32, height: height + 100, draw };
  }

  /** One line for each read. */
  lines(scene: Scene): Line[] | null {
    const found = trace(scene);
    return (
      found &&
      found.edges.map(({ layer, to, from, value }) => ({
        run: scene.run.name,
        more: { query_position: to, query_token: atPosition(scene.run, to).text, layer },
        token: from,
        value,
      }))
    );
  }
}

const keyOf = ({ layer, to, from }: Edge) => [layer, to, from.position].join();

const atPosition = (run: Run, position: number): TokenInfo =>
  run.tokens.find((token) => token.position === position) ??
  plainToken(position, run.manifest?.tokens?.find((token) => token.position === position)?.text ?? "");

const tokenText = (token: TokenInfo) => `${label(token, 24).replace(/^␣(?=.)/, "")} (${token.position})`;

/** "layer 3: is (15) reads cup (10), 74.8" */
const readText = (run: Run, { layer, to, from, value }: Edge) =>
  `layer ${layer}: ${tokenText(atPosition(run, to))} reads ${tokenText(from)}, ${number(value)}`;

/** "To say blue, is (15) reads cup (10) in layer 3, which has read blue (9) in layer 1; and cup (14) in layer 1." */
function sentence(run: Run, { state }: Scene, found: Trace): string {
  const own = found.edges
    .filter(({ to }) => to === found.start) // the last layer first
    .slice(0, 3)
    .map((edge) => chain(found, edge));
  const answer = predicted(run, state.step)?.text;
  const who = tokenText(atPosition(run, found.start));
  const begin =
    state.query === null && answer !== undefined
      ? `To say ${answer.trim() || label(plainToken(0, answer))}, ${who}`
      : who;
  if (!own.length) return `${begin} reads no other token that much.`;
  const told = own.map((edges) =>
    edges.map(({ from, layer }) => `${tokenText(from)} in layer ${layer}`).join(", which has read "),
  );
  return `${begin} reads ${told.join("; and ")}.`;
}
